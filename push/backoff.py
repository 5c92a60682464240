"""How long to wait before the next try. Pure functions; the spread keeps many pushes from returning at once."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_RETRY_SECONDS = 10.0
LAST_RETRY_SECONDS = 900.0
# A refused credential is repaired by a person, or by the OAuth server a moment later: look soon, then rarely.
FIRST_PAUSE_SECONDS = 5.0
LAST_PAUSE_SECONDS = 300.0
# Doubling more often than this is past every limit above.
_MAX_DOUBLINGS = 16

Spread = Callable[[], float]


def retry_delay(attempts: int, retry_after: float | None = None, spread: Spread = random.random) -> float:
    """
    Seconds until a push that has been tried ``attempts`` times may be tried again.

    ``retry_after``, if the provider gave one, wins; it is never undercut.
    """
    if retry_after is not None:
        return max(0.0, retry_after) * (1 + 0.1 * spread()) + spread()
    return _doubled(FIRST_RETRY_SECONDS, attempts, LAST_RETRY_SECONDS) * (0.8 + 0.4 * spread())


def pause_delay(failures: int, spread: Spread = random.random) -> float:
    """Seconds until a provider that has refused us ``failures`` times in a row is asked again."""
    return _doubled(FIRST_PAUSE_SECONDS, failures, LAST_PAUSE_SECONDS) * (0.8 + 0.4 * spread())


def _doubled(first: float, times: int, last: float) -> float:
    doublings = min(max(times - 1, 0), _MAX_DOUBLINGS)
    return min(last, first * float(2**doublings))
