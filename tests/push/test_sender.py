"""The pause of a provider: one push goes first, then the others."""

from push.sender import Pause


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_provider_is_not_paused_to_begin_with() -> None:
    pause = Pause(Clock())

    assert not pause.is_on
    assert not pause.is_probing


def test_a_refusal_pauses_then_one_push_probes() -> None:
    clock = Clock()
    pause = Pause(clock)

    seconds = pause.refused()

    assert seconds is not None
    assert pause.is_on
    clock.now += seconds
    assert not pause.is_on
    assert pause.is_probing


def test_what_gets_through_ends_the_probe() -> None:
    clock = Clock()
    pause = Pause(clock)
    clock.now += pause.refused() or 0

    assert pause.accepted()
    assert not pause.is_probing
    assert not pause.accepted()


def test_refusals_of_pushes_in_flight_count_once() -> None:
    pause = Pause(Clock())
    pause.refused()

    assert pause.refused() is None


def test_an_answer_from_before_the_refusal_ends_nothing() -> None:
    pause = Pause(Clock())
    pause.refused()

    assert not pause.accepted()
    assert pause.is_on


def test_each_refused_probe_pauses_for_longer() -> None:
    clock = Clock()
    pause = Pause(clock)
    lengths = []
    for _ in range(4):
        lengths.append(pause.refused() or 0)
        clock.now += lengths[-1]

    assert lengths == sorted(lengths)
    assert lengths[-1] > 4 * lengths[0]
