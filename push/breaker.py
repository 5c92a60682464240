"""
How many pushes a provider may be given at once: all, none while it refuses or fails, few after that.

In memory of one worker. What waits stays in the database, so that no outage costs a push more than time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from . import backoff

# So many tries in a row that came to nothing are an outage, and no bad luck of some pushes.
FAILURES_TO_OPEN = 10


class Breaker:
    """
    Open, it lets nothing through; then one push probes, and each that arrives lets one more follow.

    So a provider that comes back is met by twice as many pushes in each of its round trips, not by all that have
    gathered meanwhile.
    """

    def __init__(self, concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self._slots = concurrency
        self._open_until = 0.0
        # Times that it opened since something got through, and tries that failed since then.
        self._openings = 0
        self._failures = 0

    @property
    def is_open(self) -> bool:
        return self._clock() < self._open_until

    @property
    def slots(self) -> int:
        """How many pushes may be in flight now."""
        return 0 if self.is_open else self._slots

    def refused(self) -> float | None:
        """The provider refuses us, whatever we send. Return for how many seconds it opens, or None if it is open."""
        if self.is_open:
            return None
        self._openings += 1
        self._failures = 0
        self._slots = 1
        seconds = backoff.pause_delay(self._openings)
        self._open_until = self._clock() + seconds
        return seconds

    def failed(self) -> float | None:
        """A try came to nothing. Return for how many seconds it opens, or None if it does not."""
        if self.is_open:
            return None
        self._failures += 1
        is_probe = self._openings > 0
        return self.refused() if is_probe or self._failures >= FAILURES_TO_OPEN else None

    def accepted(self) -> bool:
        """The provider has taken a push, or judged it. True if that ends a probe."""
        if self.is_open:
            # What was sent before it opened, and is only answered now.
            return False
        self._failures = 0
        self._slots = min(self._concurrency, self._slots + 1)
        was_probe, self._openings = self._openings > 0, 0
        return was_probe
