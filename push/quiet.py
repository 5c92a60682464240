"""
Quiet hours: when the clock on a person's wall lets pushes through again. Pure.

The rule is the wall clock's and nothing else, so that anybody can check it: what a spring skips is not quiet, and where
an autumn repeats an hour, what is quiet in it is quiet twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def quiet_until(now: datetime, zone: str, start: time | None, end: time | None) -> datetime | None:
    """When the quiet hours end that ``now`` lies in, in UTC; None if it lies in none. Equal ends: there are none."""
    if start is None or end is None or start == end:
        return None
    clock = _zone(zone)
    moment = now.astimezone(UTC)
    while _is_quiet(moment.astimezone(clock).time(), start, end):
        wall = moment.astimezone(clock)
        goal = moment + _from_to(wall.time(), end)
        # Unless the clocks are changed before: then things are looked at again from there.
        moment = goal if _offset(goal, clock) == wall.utcoffset() else _change_between(moment, goal, clock)
    return None if moment == now else moment


def _is_quiet(moment: time, start: time, end: time) -> bool:
    return start <= moment < end if start < end else moment >= start or moment < end


def _from_to(moment: time, end: time) -> timedelta:
    """How long the hands take, at most once around."""
    return (_hands(end) - _hands(moment)) % _DAY


def _hands(moment: time) -> timedelta:
    return timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond)


def _change_between(low: datetime, high: datetime, clock: ZoneInfo) -> datetime:
    """
    When the clocks are changed, by halving: zones tell their offsets, and not when these change.

    No zone changes twice within a day.
    """
    low, high = low.replace(microsecond=0), high.replace(microsecond=0) + _SECOND
    before = _offset(low, clock)
    while high - low > _SECOND:
        middle = low + (high - low) // (2 * _SECOND) * _SECOND
        low, high = (middle, high) if _offset(middle, clock) == before else (low, middle)
    return high


def _offset(moment: datetime, clock: ZoneInfo) -> timedelta | None:
    return moment.astimezone(clock).utcoffset()


def _zone(name: str) -> ZoneInfo:
    """
    A time zone by its name.

    One that this machine does not know is taken for UTC: hours that are quiet at another time of the day are nearer to
    what was asked for than none.
    """
    try:
        return ZoneInfo(name or "UTC")
    # A folder of zones, a path, a file that is no zone.
    except (KeyError, ValueError, OSError):
        return ZoneInfo("UTC")
