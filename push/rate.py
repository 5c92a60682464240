"""A provider's quota: so many pushes a minute, refilled steadily. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Quota:
    """A bucket of a minute's pushes; without a number there is no bound."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute or 0)
        self._at = clock()

    def take(self, wanted: int) -> int:
        """Take as many of ``wanted`` as there are; return how many."""
        if self._per_minute is None:
            return wanted
        now = self._clock()
        self._left = min(self._per_minute, self._left + (now - self._at) * self._per_minute / 60)
        self._at = now
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken

    def put_back(self, count: int) -> None:
        """What was taken, and was not needed."""
        if self._per_minute is not None:
            self._left = min(self._per_minute, self._left + count)
