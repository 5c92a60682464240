"""One sweep a second for the timers of all connections, instead of one timer each."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

SECOND = 1.0


class Timed(Protocol):
    """Something that wants to be looked at now and then."""

    def on_time(self, now: float) -> float | None:
        """Do what is due, and return when to look again (the loop's time), or None."""


class Timers:
    """A wheel of seconds; what is due is late by a second at most."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, list[Timed]] = {}
        self._swept = math.floor(self._loop.time())
        self._handle = self._loop.call_later(SECOND, self._sweep)

    def add(self, timed: Timed, at: float) -> None:
        """Look at something at a time."""
        self._slots.setdefault(max(math.ceil(at), self._swept + 1), []).append(timed)

    def stop(self) -> None:
        self._handle.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._swept < math.floor(now):
            self._swept += 1
            for timed in self._slots.pop(self._swept, ()):
                again = timed.on_time(now)
                if again is not None and again != math.inf:
                    self.add(timed, again)
        self._handle = self._loop.call_later(SECOND, self._sweep)
