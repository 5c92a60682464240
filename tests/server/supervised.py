"""A run of the whole service as a person starts it, for the tests of ``make run`` and ``python -m server.run``."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from server.embedded import free_port

NOBODY = 65534
LOOK_SECONDS = 0.05
READY = "Roost is ready"


class Run:
    """A command in the foreground of an imagined terminal, whose process group Ctrl-C would reach."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        home: Path | None = None,
        user: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        home = home or folder
        self._output = home / "output"
        self._began = time.monotonic()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**surroundings(home), "ROOST_PORT": str(self.port), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else (),
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, seconds: float = 60) -> float:
        """Wait until it has printed ``text``; return the seconds since its start."""
        while text not in self.output:
            elapsed = time.monotonic() - self._began
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert elapsed < seconds, f"{text!r} did not come within {seconds} s:\n{self.output}"
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - self._began

    def end(self, number: signal.Signals, seconds: float = 40) -> int:
        """Send a signal to the one process and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self, path: str) -> int | None:
        """Return the status of an answer, or None where nobody answers."""
        try:
            return self.get(path)[0]
        except OSError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)


def surroundings(home: Path) -> dict[str, str]:
    """The environment of a newcomer's shell: nothing that this test run has set for itself."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ROOST_", "DJANGO_", "PYTEST_", "PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV"))
        and name not in ("DATABASE_URL", "REDIS_URL")
    }
    return {**kept, "HOME": str(home)}


def processes_in(folder: Path) -> dict[int, str]:
    """Every living process that works in ``folder``, was started from it or has a file of it open; and its command."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            places = [os.readlink(process / "cwd"), *map(os.readlink, (process / "fd").iterdir())]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        is_inside = str(folder) in words or any(Path(place).is_relative_to(folder) for place in places)
        if is_inside and int(process.name) != os.getpid():
            found[int(process.name)] = words
    return found


def wait_until_empty(folder: Path, seconds: float = 40) -> None:
    """Wait until no process is left in ``folder``."""
    deadline = time.monotonic() + seconds
    while left := processes_in(folder):
        assert time.monotonic() < deadline, left
        time.sleep(LOOK_SECONDS)


def upgrade(port: int) -> str:
    """Knock at the websocket's door and return the first line of the answer."""
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        return connection.makefile("rb").readline().decode().strip()
