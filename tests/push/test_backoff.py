"""Delays before the next try."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push import backoff

SPREAD = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (30_000, 900)])
def test_retries_double_up_to_a_quarter_of_an_hour(attempts: int, seconds: float) -> None:
    assert backoff.retry_delay(attempts, spread=lambda: 0.5) == pytest.approx(seconds)


@given(attempts=st.integers(1, 100), spread=SPREAD)
def test_retries_are_spread_by_a_fifth(attempts: int, spread: float) -> None:
    middle = backoff.retry_delay(attempts, spread=lambda: 0.5)

    assert 0.79 * middle <= backoff.retry_delay(attempts, spread=lambda: spread) <= 1.21 * middle


@given(retry_after=st.floats(0, 100_000), spread=SPREAD, attempts=st.integers(1, 20))
def test_what_the_provider_asks_for_is_never_undercut(retry_after: float, spread: float, attempts: int) -> None:
    delay = backoff.retry_delay(attempts, retry_after, spread=lambda: spread)

    assert retry_after <= delay <= retry_after * 1.1 + 1


def test_what_the_provider_asks_for_wins_over_doubling() -> None:
    assert backoff.retry_delay(9, 2.0, spread=lambda: 0.0) == 2.0


def test_a_herd_does_not_come_back_at_once() -> None:
    chance = random.Random(1)

    delays = [backoff.retry_delay(1, 60.0, spread=chance.random) for _ in range(1_000)]

    assert max(delays) - min(delays) > 5


@pytest.mark.parametrize(("failures", "seconds"), [(1, 5), (2, 10), (6, 160), (7, 300), (99, 300)])
def test_pauses_double_up_to_five_minutes(failures: int, seconds: float) -> None:
    assert backoff.pause_delay(failures, spread=lambda: 0.5) == pytest.approx(seconds)
