"""A provider's quota, without waiting for it."""

import pytest

from models.ids import new_id
from push.rate import LastMinute, Quota


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_number_there_is_no_bound(clock: Clock) -> None:
    assert Quota(None, clock).take(10**9) == 10**9


def test_no_more_than_a_minute_s_pushes_at_once(clock: Clock) -> None:
    quota = Quota(60, clock)

    assert [quota.take(50), quota.take(50), quota.take(50)] == [50, 10, 0]


def test_it_fills_steadily(clock: Clock) -> None:
    quota = Quota(60, clock)
    quota.take(60)

    clock.now += 2.5

    assert [quota.take(60), quota.take(60)] == [2, 0]
    clock.now += 0.5
    assert quota.take(60) == 1


def test_it_holds_no_more_than_a_minute_s_pushes(clock: Clock) -> None:
    quota = Quota(60, clock)

    clock.now += 86_400

    assert quota.take(1_000) == 60


def test_what_was_not_needed_is_there_again(clock: Clock) -> None:
    quota = Quota(60, clock)
    quota.take(60)

    quota.put_back(40)

    assert quota.take(60) == 40
    quota.put_back(1_000)
    assert quota.take(1_000) == 60


def test_in_any_minute_no_more_than_twice_the_quota_s_pushes(clock: Clock) -> None:
    quota, taken = Quota(600, clock), 0

    for _ in range(600):
        taken += quota.take(64)
        clock.now += 0.1

    # What it held, and what came in.
    assert taken <= 1_200


def test_a_device_is_counted_for_a_minute() -> None:
    now = [100.0]
    recent, phone, other = LastMinute(lambda: now[0]), new_id(), new_id()
    recent.note(phone)
    now[0] += 30
    recent.note(phone)
    recent.note(other)

    assert (recent.count(phone), recent.count(other), recent.count(new_id())) == (2, 1, 0)
    now[0] += 30
    assert recent.count(phone) == 1
    now[0] += 30
    assert (recent.count(phone), recent.count(other)) == (0, 0)
