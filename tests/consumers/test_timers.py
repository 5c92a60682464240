"""The sweep over all connections' timers, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from consumers.timers import Timers

from .wire import Clock


class Alarm:
    """Notes when it is looked at, and asks for the next look after a while."""

    def __init__(self, clock: Clock, every: float | None = None) -> None:
        self._clock = clock
        self._every = every
        self.rings: list[float] = []

    def on_time(self, now: float) -> float | None:
        assert now == self._clock.time()
        self.rings.append(now)
        return None if self._every is None else now + self._every


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(now=1000.25)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


@pytest.fixture
def timers(clock: Clock) -> Timers:
    return Timers()


def test_looks_when_it_is_time_and_late_by_a_second_at_most(clock: Clock, timers: Timers) -> None:
    alarms = [Alarm(clock) for _ in range(40)]
    wanted = [1000.25 + number / 4 for number in range(40)]
    for alarm, at in zip(alarms, wanted, strict=True):
        timers.add(alarm, at)

    clock.advance(20)

    for alarm, at in zip(alarms, wanted, strict=True):
        (rung,) = alarm.rings
        # One sweep a second, and the first one comes a second after the start.
        assert at <= rung <= max(at, 1001) + 1.25


def test_looks_again_when_asked_to(clock: Clock, timers: Timers) -> None:
    alarm = Alarm(clock, every=5)
    timers.add(alarm, 1001)

    clock.advance(30)

    assert len(alarm.rings) >= 5
    assert all(5 <= later - earlier <= 6.25 for earlier, later in pairwise(alarm.rings))


def test_never_looks_again_at_what_is_over(clock: Clock, timers: Timers) -> None:
    over, never = Alarm(clock), Alarm(clock, every=float("inf"))
    timers.add(over, 1001)
    timers.add(never, 1001)

    clock.advance(100)

    assert (len(over.rings), len(never.rings)) == (1, 1)


def test_a_time_that_has_passed_is_looked_at_in_the_next_sweep(clock: Clock, timers: Timers) -> None:
    clock.advance(10)
    alarm = Alarm(clock)

    timers.add(alarm, 3.0)
    clock.advance(2)

    assert len(alarm.rings) == 1


def test_a_loop_that_hung_makes_up_for_what_it_missed(clock: Clock, timers: Timers) -> None:
    alarms = [Alarm(clock) for _ in range(5)]
    for number, alarm in enumerate(alarms):
        timers.add(alarm, 1002 + number)

    clock.hang(60)
    clock.advance(1)

    assert [len(alarm.rings) for alarm in alarms] == [1] * 5


def test_stopped_it_looks_at_nothing_more(clock: Clock, timers: Timers) -> None:
    alarm = Alarm(clock)
    timers.add(alarm, 1002)

    timers.stop()
    clock.advance(10)

    assert alarm.rings == []
