"""A token bucket: so many commands a second, with bursts. Pure; the caller brings the time."""

from __future__ import annotations

from enum import Enum

# How many seconds' worth may come at once.
BURST_SECONDS = 4.0


class Verdict(Enum):
    """What to do with a command."""

    ALLOWED = 0
    REFUSED = 1
    FLOOD = 2


class Bucket:
    """
    One connection's allowance.

    Debt grows with what is refused: a client that goes on all the same is a flood after another burst.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = max(rate * BURST_SECONDS, 1)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> Verdict:
        """Spend one token."""
        tokens = min(self._tokens + (now - self._at) * self._rate, self._burst) - 1
        self._at = now
        self._tokens = tokens
        if tokens >= 0:
            return Verdict.ALLOWED
        return Verdict.REFUSED if tokens > -self._burst else Verdict.FLOOD
