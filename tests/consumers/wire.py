"""The two things that tests of sockets replace: the wire, and the clock of the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from typing import Any

from consumers.protocol.codes import Disconnect
from consumers.protocol.json import JSON


class Wire:
    """What a client would have got. Nothing is lost, and nothing more comes after the close."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.is_read = True

    def write(self, frame: bytes) -> None:
        assert self.closed is None, f"written after the close: {frame!r}"
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed = (code, reason)

    def pause(self) -> None:
        self.is_read = False

    def resume(self) -> None:
        self.is_read = True

    @property
    def replies(self) -> list[dict[str, Any]]:
        """All replies and pushes of all frames."""
        return [json.loads(line) for frame in self.frames for line in payload(frame).split(b"\n")]

    @property
    def pushes(self) -> list[dict[str, Any]]:
        return [reply["push"] for reply in self.replies if "push" in reply]

    def take(self) -> list[dict[str, Any]]:
        """What has come since the last look."""
        replies = self.replies
        self.frames = []
        return replies

    def is_closed_with(self, code: Disconnect) -> bool:
        return self.closed == (code.value, code.reason)


class Listener(Wire):
    """A connection, as far as the hub knows it."""

    codec = JSON

    def disconnect(self, code: Disconnect) -> None:
        self.close(code.value, code.reason)

    @property
    def offsets(self) -> list[int]:
        """What was heard, in the order of arrival; 0 for a hint."""
        return [push["pub"].get("offset", 0) for push in self.pushes]


class Clock:
    """A loop whose time stands still until it is moved, and whose turns end when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._soon: list[Callable[[], object]] = []
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        entry = (self._now + delay, next(self._numbers), callback)
        self._later.append(entry)
        return Timer(lambda: self._later.remove(entry))

    def turn(self) -> None:
        """Do what is to be done soon, and what that brings."""
        while self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()

    def hang(self, seconds: float) -> None:
        """Let time pass without doing anything, as a loop does that is held up."""
        self._now += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass, and do what becomes due in between."""
        until = self._now + seconds
        while due := [entry for entry in self._later if entry[0] <= until]:
            entry = min(due)
            self._later.remove(entry)
            self._now = max(self._now, entry[0])
            entry[2]()
            self.turn()
        self._now = until


class Timer:
    """What ``call_later`` returns."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


async def until(holds: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until something holds, for tests on the real loop."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(0.005)


def payload(frame: bytes) -> bytes:
    """What is in a finished frame of a server."""
    size = frame[1]
    return frame[2 if size < 126 else 4 if size == 126 else 10 :]


def line(**command: Any) -> bytes:
    """One command of a client, as JSON."""
    return json.dumps(command).encode()
