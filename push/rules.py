"""What holds for everything that one worker sends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .payload import Look

# Longer than any try, including the wait for the database afterwards: while it lasts nobody else sends this push.
LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a worker's senders."""

    default_provider: str
    providers: frozenset[str]
    look: Look
    stale_after: timedelta
