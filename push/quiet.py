"""Quiet hours in a person's own time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo


def quiet_until(now: datetime, zone: str, start: time | None, end: time | None) -> datetime | None:
    """When the quiet hours end that ``now`` lies in, or None if it lies in none."""
    if start is None or end is None or start == end:
        return None
    local = now.astimezone(ZoneInfo(zone or "UTC"))
    moment = local.time()
    is_quiet = start <= moment < end if start < end else moment >= start or moment < end
    if not is_quiet:
        return None
    day = local.date() + timedelta(days=1 if start > end and moment >= start else 0)
    return datetime.combine(day, end, local.tzinfo).astimezone(UTC)
