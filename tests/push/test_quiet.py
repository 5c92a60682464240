"""Quiet hours: what the wall clock says, in every zone, on every day of the year."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from push.quiet import quiet_until

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Pacific/Apia",
    "Asia/Kolkata",
    # Half an hour of summer time; a change at midnight; and the other half of the world.
    "Australia/Lord_Howe",
    "Asia/Beirut",
    "America/Santiago",
    "UTC",
]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def hours(text: str) -> tuple[time, time]:
    start, end = text.split("-")
    return time.fromisoformat(start), time.fromisoformat(end)


NIGHT = "22:00-07:00"


@pytest.mark.parametrize(
    ("zone", "quiet", "now", "until"),
    [
        # An ordinary night, across midnight.
        ("Europe/Berlin", NIGHT, "2026-11-25T21:59:59+01:00", None),
        ("Europe/Berlin", NIGHT, "2026-11-25T22:00:00+01:00", "2026-11-26T07:00:00+01:00"),
        ("Europe/Berlin", NIGHT, "2026-11-26T00:00:00+01:00", "2026-11-26T07:00:00+01:00"),
        ("Europe/Berlin", NIGHT, "2026-11-26T06:59:59.999999+01:00", "2026-11-26T07:00:00+01:00"),
        ("Europe/Berlin", NIGHT, "2026-11-26T07:00:00+01:00", None),
        ("Asia/Kolkata", NIGHT, "2026-11-25T16:30:00+00:00", "2026-11-26T01:30:00+00:00"),
        # Within a day.
        ("America/New_York", "09:00-17:00", "2026-11-25T12:00:00-05:00", "2026-11-25T17:00:00-05:00"),
        ("America/New_York", "09:00-17:00", "2026-11-25T18:00:00-05:00", None),
        # The last minute of a day, and a whole day but one minute.
        ("UTC", "23:59-00:00", "2026-11-25T23:59:30+00:00", "2026-11-26T00:00:00+00:00"),
        ("UTC", "07:01-07:00", "2026-11-25T07:01:00+00:00", "2026-11-26T07:00:00+00:00"),
        # The night of spring is an hour shorter, that of autumn longer.
        ("Europe/Berlin", NIGHT, "2026-03-28T23:00:00+01:00", "2026-03-29T07:00:00+02:00"),
        ("Europe/Berlin", NIGHT, "2026-10-24T23:00:00+02:00", "2026-10-25T07:00:00+01:00"),
        ("America/New_York", NIGHT, "2026-03-07T23:00:00-05:00", "2026-03-08T07:00:00-04:00"),
        ("America/New_York", NIGHT, "2026-10-31T23:00:00-04:00", "2026-11-01T07:00:00-05:00"),
        # They end at a time that spring skips: when it does.
        ("Europe/Berlin", "22:00-02:30", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("America/New_York", "22:00-02:30", "2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00"),
        # They begin at a time that spring skips: when it does.
        ("Europe/Berlin", "02:30-08:00", "2026-03-29T01:59:59+01:00", None),
        ("Europe/Berlin", "02:30-08:00", "2026-03-29T03:00:00+02:00", "2026-03-29T08:00:00+02:00"),
        # They lie in what spring skips.
        ("Europe/Berlin", "02:15-02:45", "2026-03-29T03:00:00+02:00", None),
        # They end at a time that autumn has twice: at the first one, and, for what comes after it, at the second.
        ("Europe/Berlin", "22:00-02:30", "2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("Europe/Berlin", "22:00-02:30", "2026-10-25T02:45:00+02:00", None),
        ("Europe/Berlin", "22:00-02:30", "2026-10-25T02:15:00+01:00", "2026-10-25T02:30:00+01:00"),
        # They end when the clocks are set back: an hour later, because it is not that late yet.
        ("Europe/Berlin", "22:00-03:00", "2026-10-25T01:00:00+02:00", "2026-10-25T03:00:00+01:00"),
        # They begin at a time that autumn has twice.
        ("America/New_York", "01:30-06:00", "2026-11-01T01:45:00-04:00", "2026-11-01T02:00:00-04:00"),
        ("America/New_York", "01:30-06:00", "2026-11-01T01:30:00-05:00", "2026-11-01T06:00:00-05:00"),
        # A day that Samoa did not have.
        ("Pacific/Apia", NIGHT, "2011-12-29T23:00:00-10:00", "2011-12-31T07:00:00+14:00"),
        # Its own changes: what spring skips, and what autumn has twice.
        ("Pacific/Apia", "22:00-03:30", "2011-09-24T02:30:00-11:00", "2011-09-24T04:00:00-10:00"),
        ("Pacific/Apia", "22:00-03:30", "2012-04-01T02:45:00+14:00", "2012-04-01T03:30:00+14:00"),
        ("Pacific/Apia", "22:00-03:30", "2012-04-01T03:15:00+13:00", "2012-04-01T03:30:00+13:00"),
        # Midnight does not exist.
        ("Asia/Beirut", "20:00-00:30", "2026-03-28T23:30:00+02:00", "2026-03-29T01:00:00+03:00"),
    ],
)
def test_quiet_hours_end_when_the_wall_clock_says_so(zone: str, quiet: str, now: str, until: str | None) -> None:
    assert quiet_until(moment(now), zone, *hours(quiet)) == (moment(until) if until else None)


@pytest.mark.parametrize("quiet", [(None, None), (time(22), None), (None, time(7)), (time(7), time(7))])
def test_without_two_different_ends_nothing_is_quiet(quiet: tuple[time | None, time | None]) -> None:
    assert quiet_until(moment("2026-11-25T07:00:00+00:00"), "UTC", *quiet) is None


@pytest.mark.parametrize("zone", ["", "Mars/Olympus_Mons", "../../etc/passwd", "/etc/passwd", "Europe", "\0", "ü" * 99])
def test_an_unknown_zone_is_utc(zone: str) -> None:
    now = moment("2026-11-25T23:00:00+00:00")

    assert quiet_until(now, zone, *hours(NIGHT)) == moment("2026-11-26T07:00:00+00:00")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
def test_now_may_be_in_any_zone_and_the_answer_is_in_utc(zone: str) -> None:
    now = moment("2026-11-25T23:00:00+00:00")

    until = quiet_until(now.astimezone(ZoneInfo(zone)), "UTC", *hours(NIGHT))

    assert until == moment("2026-11-26T07:00:00+00:00")
    assert until.tzinfo is UTC


TIMES = st.times().map(lambda at: at.replace(second=0, microsecond=0))
MOMENTS = st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))
# The nights of all changes of some years, where everything that can go wrong does.
NIGHTS = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes),
    st.sampled_from(
        [
            moment(f"{day}T00:00:00+00:00")
            for day in (
                "2026-03-08",
                "2026-03-29",
                "2026-10-25",
                "2026-11-01",
                "2026-04-04",
                "2026-10-03",
                "2011-12-30",
                "2026-03-28",
            )
        ]
    ),
    st.integers(-24 * 60, 24 * 60),
)


def says_quiet(at: datetime, zone: str, start: time, end: time) -> bool:
    wall = at.astimezone(ZoneInfo(zone)).time()
    return start <= wall < end if start < end else start != end and (wall >= start or wall < end)


@given(MOMENTS | NIGHTS, st.sampled_from(ZONES), TIMES, TIMES)
@example(moment("2026-10-25T00:59:59+00:00"), "Europe/Berlin", time(22), time(2, 30))
def test_the_answer_is_the_first_moment_at_which_the_wall_clock_says_so(
    now: datetime, zone: str, start: time, end: time
) -> None:
    until = quiet_until(now, zone, start, end)

    assert (until is not None) == says_quiet(now, zone, start, end)
    if until is None:
        return
    assert now < until <= now + timedelta(hours=26)
    assert until.second == until.microsecond == 0
    assert not says_quiet(until, zone, start, end)
    assert says_quiet(until - timedelta(microseconds=1), zone, start, end)
    minutes = int((until - now).total_seconds() // 60)
    assert all(says_quiet(now + timedelta(minutes=minute), zone, start, end) for minute in range(0, minutes, 5))


@given(MOMENTS, st.text(), TIMES, TIMES)
def test_any_text_for_a_zone_gets_an_answer(now: datetime, zone: str, start: time, end: time) -> None:
    quiet_until(now, zone, start, end)
