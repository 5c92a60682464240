"""The breaker of a provider: nothing goes while it is open, then one push, then more and more."""

from push.breaker import FAILURES_TO_OPEN, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A breaker over eight slots, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(8, self.clock)

    def opened(self) -> Breaker:
        self.breaker.refused()
        return self.breaker

    def probing(self) -> Breaker:
        self.clock.now += self.breaker.refused() or 0
        return self.breaker


def test_everything_goes_to_begin_with() -> None:
    breaker = Scene().breaker

    assert not breaker.is_open
    assert breaker.slots == 8


def test_a_refusal_opens_it_then_one_push_probes() -> None:
    scene = Scene()

    seconds = scene.breaker.refused()

    assert seconds is not None
    assert scene.breaker.slots == 0
    scene.clock.now += seconds
    assert not scene.breaker.is_open
    assert scene.breaker.slots == 1


def test_what_gets_through_lets_more_and_more_follow() -> None:
    breaker = Scene().probing()

    ends_probe = [breaker.accepted() for _ in range(3)]
    after_three = breaker.slots
    for _ in range(20):
        breaker.accepted()

    assert ends_probe == [True, False, False]
    assert (after_three, breaker.slots) == (4, 8)


def test_refusals_of_pushes_in_flight_count_once() -> None:
    breaker = Scene().opened()

    assert breaker.refused() is None
    assert breaker.failed() is None


def test_an_answer_from_before_the_refusal_ends_nothing() -> None:
    breaker = Scene().opened()

    assert not breaker.accepted()
    assert breaker.is_open


def test_each_refused_probe_opens_it_for_longer() -> None:
    scene = Scene()
    lengths = []
    for _ in range(4):
        lengths.append(scene.breaker.refused() or 0)
        scene.clock.now += lengths[-1]

    assert lengths == sorted(lengths)
    assert lengths[-1] > 4 * lengths[0]


def test_failures_in_a_row_are_an_outage() -> None:
    breaker = Scene().breaker

    opened = [breaker.failed() for _ in range(FAILURES_TO_OPEN)]

    assert opened[:-1] == [None] * (FAILURES_TO_OPEN - 1)
    assert opened[-1] is not None
    assert breaker.slots == 0


def test_failures_with_successes_between_are_not() -> None:
    breaker = Scene().breaker

    for _ in range(3 * FAILURES_TO_OPEN):
        breaker.failed()
        breaker.accepted()

    assert breaker.slots == 8


def test_a_probe_that_fails_opens_it_again() -> None:
    breaker = Scene().probing()

    assert breaker.failed() is not None
    assert breaker.slots == 0
