"""Questions that are answered together: who shares a round with whom, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from models.errors import TooBusy
from models.together import Together


class Answers:
    """Doubles numbers, once it is let; keeps the rounds."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.may_go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)

    async def all(self, asked: Sequence[int]) -> list[int | Exception]:
        self.rounds.append(list(asked))
        self.begun.release()
        await self.may_go_on.wait()
        if 13 in asked:
            raise OSError("the round is lost")
        return [2 * number if number else ZeroDivisionError() for number in asked]


async def asked(together: Together[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Ask, and let each get as far as it can."""
    found = [asyncio.ensure_future(together.ask(number)) for number in numbers]
    await asyncio.sleep(0)
    return found


async def test_who_comes_meanwhile_is_answered_together() -> None:
    answers = Answers()
    together = Together(answers.all, most=3, at_once=1, most_waiting=10)
    first = await asked(together, 1)
    await answers.begun.acquire()
    others = await asked(together, 2, 3, 4, 5)
    answers.may_go_on.set()

    assert await asyncio.gather(*first, *others) == [2, 4, 6, 8, 10]
    assert answers.rounds == [[1], [2, 3, 4], [5]]


async def test_an_error_is_for_its_question_or_for_its_round() -> None:
    answers = Answers()
    answers.may_go_on.set()
    together = Together(answers.all, most=2, at_once=1, most_waiting=10)

    good, bad, lost, with_it = await asyncio.gather(
        *(together.ask(number) for number in (1, 0, 13, 2)), return_exceptions=True
    )

    assert good == 2
    assert isinstance(bad, ZeroDivisionError)
    assert isinstance(lost, OSError)
    assert isinstance(with_it, OSError)
    assert await together.ask(4) == 8


async def test_no_more_wait_than_may() -> None:
    answers = Answers()
    together = Together(answers.all, most=1, at_once=1, most_waiting=2)
    first = await asked(together, 1)
    await answers.begun.acquire()
    waiting = await asked(together, 2, 3)

    with pytest.raises(TooBusy):
        await together.ask(4)
    answers.may_go_on.set()
    assert await asyncio.gather(*first, *waiting) == [2, 4, 6]


async def test_who_gives_up_does_not_disturb_the_others() -> None:
    answers = Answers()
    together = Together(answers.all, most=2, at_once=1, most_waiting=10)
    impatient, patient = await asked(together, 1, 2)
    await answers.begun.acquire()
    impatient.cancel()
    answers.may_go_on.set()

    assert await patient == 4
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_stopping_leaves_nobody_waiting() -> None:
    answers = Answers()
    together = Together(answers.all, most=1, at_once=1, most_waiting=10)
    waiting = await asked(together, 1, 2)
    await answers.begun.acquire()
    await together.stop()

    for task in waiting:
        with pytest.raises(asyncio.CancelledError):
            await task
