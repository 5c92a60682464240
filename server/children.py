"""Processes that never outlive their supervisor: each holds its own pid file locked for as long as it lives.

Used by ``run``, ``embedded`` and the tests. The lock tells who is alive without guessing from process numbers, so the
same ``end_all`` serves an orderly stop, the guardian after a ``kill -9``, and the next start after both were killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parent.parent

# A lock cannot be awaited with a deadline, so it is looked at this often.
LOOK_SECONDS = 0.02
# After SIGKILL only the kernel's clean-up is left to wait for.
KILL_SECONDS = 10.0
GUARDIAN = "guardian"
PID_FILES = "processes"


@dataclass(frozen=True)
class Ending:
    """How a process is asked to stop: lower turns first, ``SIGKILL`` when its patience is over."""

    turn: int
    signal: signal.Signals = signal.SIGTERM
    patience_seconds: float = 20.0


class Child:
    """
    One process of ours in its own session, so that Ctrl-C reaches the supervisor alone, which then stops all in order.

    ``folder`` keeps the pid file, ``log`` takes what the process prints (else it goes where ours goes).
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        command: Sequence[str | Path],
        *,
        ending: Ending,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        user: int | None = None,
    ) -> None:
        self.name = name
        self.ending = ending
        self.command = [str(word) for word in command]
        self.env = dict(os.environ if env is None else env)
        self._pid_file = folder / PID_FILES / f"{name}.pid"
        self._log = log
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the process; it is recorded before its first instruction runs."""
        self._pid_file.parent.mkdir(mode=0o700, exist_ok=True)
        # A former process of this name may have to finish dying first.
        lock = _locked(self._pid_file, deadline=time.monotonic() + KILL_SECONDS)
        try:
            self._process = self._spawn(lock)
        finally:
            os.close(lock)
        return self

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        def record() -> None:
            # Between fork and exec: a supervisor that is killed right now still leaves a complete record.
            words = (os.getpid(), self.ending.turn, int(self.ending.signal), self.ending.patience_seconds)
            os.ftruncate(lock, 0)
            os.pwrite(lock, " ".join(map(str, words)).encode(), 0)

        output = _opened(self._log) if self._log else None
        try:
            return subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                pass_fds=(lock,),
                preexec_fn=record,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else (),
            )
        finally:
            if output:
                output.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to the living only."""
        if self.is_alive:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Ask it to stop, insist when its patience is over, and return the exit code."""
        self.signal(self.ending.signal)
        try:
            code = self.wait(self.ending.patience_seconds)
        except subprocess.TimeoutExpired:
            code = self.kill()
        self._pid_file.unlink(missing_ok=True)
        return code

    def kill(self) -> int:
        """``kill -9``, and return the exit code."""
        self.signal(signal.SIGKILL)
        return self.wait(KILL_SECONDS)


class Guardian:
    """
    A small process that waits for its parent's death, however it came, and then ends what is left in ``folder``.

    It notices by a pipe that nobody else holds open: the kernel closes it whatever kills the parent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        lock = _locked(_guardian_lock(self._folder), deadline=time.monotonic())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.children", str(self._folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(lock)
        return self

    def stop(self) -> None:
        """Let it go; whatever is still running is ended by it first."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()


def await_guardian(folder: Path, seconds: float) -> None:
    """
    Wait until the guardian of a killed predecessor has done its work.

    Raises:
        TimeoutError: it is still at it.
    """
    path = _guardian_lock(folder)
    if path.exists():
        os.close(_locked(path, deadline=time.monotonic() + seconds))


def end_all(folder: Path, *, is_urgent: Callable[[], bool] = lambda: False) -> None:
    """End every process recorded in ``folder`` in its turn; ``is_urgent`` becoming true ends the patience."""
    recorded = sorted(_recorded(folder), key=lambda leftover: leftover.ending.turn)
    for _, leftovers in groupby(recorded, key=lambda leftover: leftover.ending.turn):
        _end(list(leftovers), is_urgent)


@dataclass(frozen=True)
class _Leftover:
    path: Path
    pid: int
    ending: Ending


def _recorded(folder: Path) -> Iterable[_Leftover]:
    for path in (folder / PID_FILES).glob("*.pid"):
        words = path.read_text().split()
        if len(words) == 4:
            ending = Ending(int(words[1]), signal.Signals(int(words[2])), float(words[3]))
            yield _Leftover(path, int(words[0]), ending)


def _end(leftovers: list[_Leftover], is_urgent: Callable[[], bool]) -> None:
    for leftover in leftovers:
        _send(leftover, leftover.ending.signal)
    began = time.monotonic()
    for leftover in leftovers:
        while not _is_over(leftover):
            if is_urgent() or time.monotonic() > began + leftover.ending.patience_seconds:
                _send(leftover, signal.SIGKILL)
                os.close(_locked(leftover.path, deadline=time.monotonic() + KILL_SECONDS))
                break
            time.sleep(LOOK_SECONDS)
        leftover.path.unlink(missing_ok=True)


def _send(leftover: _Leftover, number: signal.Signals) -> None:
    # The lock says that it lives, so the number cannot have passed on to a stranger.
    if not _is_over(leftover):
        try:
            os.kill(leftover.pid, number)
        except ProcessLookupError:
            pass


def _is_over(leftover: _Leftover) -> bool:
    try:
        os.close(_locked(leftover.path, deadline=0))
    except TimeoutError:
        return False
    return True


def _locked(path: Path, *, deadline: float) -> int:
    """Open and lock a file; raise ``TimeoutError`` when another process still holds it at ``deadline``."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(file)
                raise TimeoutError(f"{path} is held by another process") from None
            time.sleep(LOOK_SECONDS)
        else:
            return file


def lock_or_none(path: Path) -> int | None:
    """Lock a file for the life of this process, or None when another process has it."""
    try:
        return _locked(path, deadline=0)
    except TimeoutError:
        return None


def _opened(log: Path) -> IO[bytes]:
    return open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))


def _guardian_lock(folder: Path) -> Path:
    return folder / f"{GUARDIAN}.lock"


def _guard(folder: Path) -> None:
    """Wait for the end of the pipe, then end what is left."""
    while sys.stdin.buffer.read(1):
        pass
    end_all(folder)


if __name__ == "__main__":
    # Ctrl-C and SIGTERM are for the parent: the guardian goes last.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _guard(Path(sys.argv[1]))
