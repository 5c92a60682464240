"""The foreground supervisor behind ``make run``: embedded servers, migrations, demo accounts, web processes, a worker.

``python -m server.run`` starts them in order, starts again what crashes, and stops them in order; nothing outlives it.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Protocol
from urllib.parse import urlsplit

import psycopg
import redis

from . import env
from .children import ROOT, Child, Ending, Guardian, await_guardian, end_all, lock_or_none
from .embedded import Postgres, StartError, Valkey

LOOK_SECONDS = 0.1
# A process that ran this long was sound: its next crash is answered at once again.
STEADY_SECONDS = 30.0
FIRST_DELAY_SECONDS = 0.5
LAST_DELAY_SECONDS = 30.0
# From the start of the web processes to their first answer, on a slow machine.
READY_SECONDS = 90.0
# A process that cannot even start is hopeless after this many tries.
START_TRIES = 3
# Beyond its drain time a web process commits what is in flight and closes its pools.
STOP_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class StopRequested(BaseException):
    """Somebody wants an end: Ctrl-C, SIGTERM, a closed terminal, or the death of ``make``."""


class Startable(Protocol):
    """A ``Child``, or an embedded server around one."""

    def start(self) -> object: ...


class Kept:
    """A process that is started again when it ends by itself, at once the first time, then later and later."""

    def __init__(self, name: str, startable: Startable) -> None:
        self.name = name
        self.crashes = 0
        self._startable = startable
        self._started_at = 0.0
        self._due_at: float | None = 0.0

    @property
    def child(self) -> Child | None:
        return self._startable if isinstance(self._startable, Child) else getattr(self._startable, "child", None)

    def look(self) -> None:
        """Note an end, start what is due."""
        now = time.monotonic()
        if self._due_at is not None:
            if now >= self._due_at:
                self._start()
        elif self.child and not self.child.is_alive:
            self._note_end(now, f"ended with code {self.child.exit_code}")

    def started(self) -> None:
        """Say that it runs."""
        self._started_at = time.monotonic()
        self._due_at = None

    def _start(self) -> None:
        try:
            self._startable.start()
        except (StartError, TimeoutError) as error:
            self._note_end(time.monotonic(), f"does not start: {error}")
        else:
            self.started()

    def _note_end(self, now: float, what: str) -> None:
        if now - self._started_at > STEADY_SECONDS:
            self.crashes = 0
        delay = min(LAST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**self.crashes)
        self.crashes += 1
        self._due_at = now + delay
        say(f"{self.name} {what}; starting it again in {delay:g} s.")


class Supervisor:
    """One run of everything, in one folder."""

    def __init__(self, folder: Path, *, follows_parent: bool) -> None:
        self._folder = folder
        self._parent = os.getppid() if follows_parent else None
        self._kept: list[Kept] = []
        self._requests = 0

    def run(self) -> None:
        """
        Start, watch until somebody wants an end, stop.

        Raises:
            StartError: something does not come up.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._take_folder()
        settings = env.load()
        _refuse_taken_port(settings.host, settings.port)
        guardian = Guardian(self._folder).start()
        try:
            self._start(settings)
            while True:
                self._watch()
        except StopRequested:
            say("Stopping (once more to hurry) …")
        finally:
            self._stop()
            guardian.stop()
        say("Stopped.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        if self._requests == 1:
            raise StopRequested

    def _take_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = lock_or_none(self._folder / "run.lock")
            (self._folder / "env").unlink(missing_ok=True)
        except OSError as error:
            raise StartError(
                f"{self._folder} is not writable ({error.strerror}): give it to the user who runs this, or clone anew."
            ) from None
        if self._lock is None:
            raise StartError(f"Roost is running in {self._folder} already: stop it first.")
        try:
            await_guardian(self._folder, seconds=60)
        except TimeoutError:
            raise StartError("A former run is still stopping: try again in a minute.") from None
        # What is left when the former run and its guardian were both killed.
        end_all(self._folder)

    def _start(self, settings: env.Env) -> None:
        environment = self._start_servers(settings)
        self._run_once("migrate", ["migrate", "--no-input"], environment)
        self._start_processes(settings, environment)
        log_ins = "" if settings.is_production else self._load_demo(settings, environment)
        self._await_ready(settings)
        say(f"Roost is ready: {_address(settings)}/\n{log_ins}Stop it with Ctrl-C.")
        if log_ins and settings.host not in LOOPBACK:
            say("Other machines can reach it, and everybody knows the demo log-ins: go live with ROOST_ENV=production.")

    def _start_servers(self, settings: env.Env) -> dict[str, str]:
        """Start what no address is given for, check what one is given for; return the processes' environment."""
        found: dict[str, str] = {}
        if settings.database_url:
            _check_database(settings.database_url)
        else:
            say("Starting PostgreSQL …")
            # Every process has a pool and the writer's own; the rest is for people with psql.
            connections = 50 + (settings.web_processes + 1) * (settings.database_threads + 6)
            options = {"max_connections": str(connections)}
            found["DATABASE_URL"] = self._keep_server(Postgres(self._folder, self._folder / "postgres", options))
        if settings.redis_url:
            _check_redis(settings.redis_url)
        else:
            say("Starting Valkey …")
            found["REDIS_URL"] = self._keep_server(Valkey(self._folder, self._folder / "valkey"))
        self._tell_commands(found)
        return {**os.environ, **found}

    def _keep_server(self, server: Postgres | Valkey) -> str:
        server.start()
        kept = Kept(server.title, server)
        kept.started()
        self._kept.append(kept)
        return server.url

    def _tell_commands(self, found: dict[str, str]) -> None:
        """Write the addresses where ``env.py`` looks, so that ``manage.py shell`` beside us finds the servers."""
        lines = "".join(f"{name}={value}\n" for name, value in found.items())
        file = os.open(self._folder / "env", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(file, "w") as stream:
            stream.write(lines)

    def _run_once(self, name: str, words: Sequence[str], environment: dict[str, str]) -> str:
        """Run a ``manage.py`` command to its end and return what it printed."""
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        code = self._child(name, words, environment, log=log).start().wait()
        printed = log.read_text(errors="replace")
        if code != 0:
            raise StartError(f"`manage.py {' '.join(words)}` failed: {_gist(printed)} (all of it: {log})")
        return printed

    def _load_demo(self, settings: env.Env, environment: dict[str, str]) -> str:
        """Load the demo accounts, once: who deleted one does not want it back. Return their log-ins."""
        # Beside the data, so that both go together.
        printed = self._folder / "postgres" / "demo"
        if settings.database_url:
            return self._run_once("demo", ["demo"], environment)
        if not printed.exists():
            printed.write_text(self._run_once("demo", ["demo"], environment))
        return printed.read_text()

    def _child(
        self,
        name: str,
        words: Sequence[str],
        environment: dict[str, str],
        *,
        log: Path | None = None,
        patience_seconds: float = STOP_SECONDS,
    ) -> Child:
        command = [sys.executable, "manage.py", *words]
        ending = Ending(turn=1, patience_seconds=patience_seconds)
        return Child(self._folder, name, command, ending=ending, env=environment, log=log)

    def _start_processes(self, settings: env.Env, environment: dict[str, str]) -> None:
        names = [f"web-{number + 1}" for number in range(settings.web_processes)]
        patience = settings.drain_seconds + STOP_SECONDS
        for name in names:
            self._keep(self._child(name, ["serve"], environment, patience_seconds=patience))
        self._keep(self._child("worker", ["worker"], environment, patience_seconds=patience))

    def _keep(self, child: Child) -> None:
        kept = Kept(child.name, child)
        kept.look()
        self._kept.append(kept)

    def _await_ready(self, settings: env.Env) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(settings):
            self._watch()
            for kept in self._kept:
                if kept.crashes >= START_TRIES:
                    raise StartError(f"{kept.name} does not come up: its last words stand above.")
            if time.monotonic() > deadline:
                raise StartError(f"{_address(settings)}/health/ready does not answer: see the lines above.")

    def _watch(self) -> None:
        for kept in self._kept:
            kept.look()
        if self._parent is not None and os.getppid() != self._parent:
            self._requests += 1
            raise StopRequested
        time.sleep(LOOK_SECONDS)

    def _stop(self) -> None:
        # From here on a signal does not interrupt, it only ends the patience.
        self._requests = max(1, self._requests)
        before = self._requests
        end_all(self._folder, is_urgent=lambda: self._requests > before)
        (self._folder / "env").unlink(missing_ok=True)


def say(text: str) -> None:
    """Print a line, if anybody still reads."""
    with suppress(OSError):
        print(text, flush=True)


def _gist(printed: str) -> str:
    """What a failed command had to say: the system checks that refused, else its last line."""
    lines = printed.strip().splitlines() or ["it said nothing"]
    refusals = [line.removeprefix("?: ") for line in lines if line.startswith("?: (")]
    return " ".join(refusals) or lines[-1]


def _refuse_taken_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise StartError(
            f"ROOST_HOST={host} is no address ({error.strerror}): 127.0.0.1 or 0.0.0.0 are usual."
        ) from None
    except OSError as error:
        raise StartError(_why_not(error, host, port)) from None


def _why_not(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} is taken by another program: stop that one, or choose a port, ROOST_PORT={port + 1}."
        case errno.EACCES:
            return f"Port {port} is for root alone: choose one above 1023 with ROOST_PORT."
        case _:
            return f"Cannot listen on {host}:{port} ({error.strerror}): change ROOST_HOST or ROOST_PORT."


def _check_database(url: str) -> None:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[-1]
        raise StartError(f"PostgreSQL does not let us in ({reason}): check DATABASE_URL, or unset it.") from None


def _check_redis(url: str) -> None:
    # It serves without Redis too, only slower across processes: worth a word, not worth refusing.
    client = redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.RedisError as error:
        say(f"Redis does not answer ({error}): going on without it; check REDIS_URL, or unset it.")
    finally:
        client.close()


def _address(settings: env.Env) -> str:
    host = WILDCARDS.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _is_ready(settings: env.Env) -> bool:
    parts = urlsplit(_address(settings))
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m server.run", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".roost", help="where data, logs and pid files are kept")
    parser.add_argument("--follow-parent", action="store_true", help="stop when the process that started this one dies")
    words = parser.parse_args()
    try:
        Supervisor(words.folder.resolve(), follows_parent=words.follow_parent).run()
    except StartError as error:
        sys.exit(f"roost: {error}")
    except StopRequested:
        say("Stopped.")


if __name__ == "__main__":
    main()
