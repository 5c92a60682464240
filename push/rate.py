"""How many pushes there may be: of a provider, and to a device. Pure but for the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from uuid import UUID

MINUTE = 60.0


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


class LastMinute:
    """How many pushes this process has begun to send to each device within the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: deque[tuple[float, UUID]] = deque()
        self._counts: dict[UUID, int] = {}

    def note(self, device: UUID) -> None:
        """One more."""
        self._begun.append((self._clock(), device))
        self._counts[device] = self._counts.get(device, 0) + 1

    def count(self, device: UUID) -> int:
        """How many there were."""
        self._forget()
        return self._counts.get(device, 0)

    def _forget(self) -> None:
        oldest = self._clock() - MINUTE
        while self._begun and self._begun[0][0] <= oldest:
            _, device = self._begun.popleft()
            self._counts[device] -= 1
            if not self._counts[device]:
                del self._counts[device]
