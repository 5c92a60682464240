"""The allowance of a connection, in commands."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.rate_limit import BURST_SECONDS, Bucket, Verdict

RATE = 50.0
BURST = int(RATE * BURST_SECONDS)


def verdicts(bucket: Bucket, times: int, now: float = 0.0) -> list[Verdict]:
    return [bucket.take(now) for _ in range(times)]


def test_a_burst_is_allowed() -> None:
    assert set(verdicts(Bucket(RATE, 0.0), BURST)) == {Verdict.ALLOWED}


def test_what_goes_beyond_a_burst_is_refused() -> None:
    bucket = Bucket(RATE, 0.0)
    verdicts(bucket, BURST)

    assert bucket.take(0.0) is Verdict.REFUSED


def test_who_waits_may_go_on() -> None:
    bucket = Bucket(RATE, 0.0)
    verdicts(bucket, BURST + 1)

    assert bucket.take(1.0) is Verdict.ALLOWED


def test_who_goes_on_all_the_same_is_a_flood() -> None:
    assert verdicts(Bucket(RATE, 0.0), 2 * BURST)[-2:] == [Verdict.REFUSED, Verdict.FLOOD]


def test_a_long_rest_saves_up_one_burst_and_no_more() -> None:
    bucket = Bucket(RATE, 0.0)

    assert verdicts(bucket, BURST + 1, now=3600.0) == [Verdict.ALLOWED] * BURST + [Verdict.REFUSED]


def test_an_allowance_below_one_a_burst_still_lets_somebody_connect_and_ask() -> None:
    assert Bucket(0.1, 0.0).take(0.0) is Verdict.ALLOWED


@given(pauses=st.lists(st.floats(1 / RATE, 10), max_size=300))
def test_who_keeps_to_the_rate_is_never_refused(pauses: list[float]) -> None:
    bucket, now = Bucket(RATE, 0.0), 0.0
    for pause in pauses:
        now += pause

        assert bucket.take(now) is Verdict.ALLOWED


@given(pauses=st.lists(st.floats(0, 1), min_size=1, max_size=1000))
def test_no_pace_gets_more_than_the_rate_and_one_burst(pauses: list[float]) -> None:
    bucket, now, allowed = Bucket(RATE, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += bucket.take(now) is Verdict.ALLOWED

    assert allowed <= BURST + now * RATE + 1
