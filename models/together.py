"""Questions that come one by one and are answered together: nobody waits for company, only for who is being served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from . import tasks
from .errors import TooBusy

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """
    Gathers the questions that come while others are being answered.

    ``answer_all`` gives each question's answer in order, or the exception that it deserves. At most ``at_once`` rounds
    of at most ``most`` questions are under way.
    """

    def __init__(
        self,
        answer_all: Callable[[Sequence[Question]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int,
        at_once: int,
        most_waiting: int,
    ) -> None:
        self._answer_all = answer_all
        self._most = most
        self._most_waiting = most_waiting
        self._free = at_once
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._tasks = tasks.Group()

    async def ask(self, question: Question) -> Answer:
        """
        Return the answer.

        Raises:
            TooBusy: too many wait already.
            Exception: the question's own, or what befell its round.
        """
        if len(self._waiting) >= self._most_waiting:
            raise TooBusy
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._free:
            self._free -= 1
            self._tasks.spawn(self._work())
        return await future

    async def stop(self) -> None:
        """Answer nobody any more."""
        await self._tasks.end()
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                asked = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                await self._answer(asked)
        finally:
            self._free += 1

    async def _answer(self, asked: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._answer_all([question for question, _ in asked])
        except Exception as error:
            answers = [error] * len(asked)
        except asyncio.CancelledError:
            for _, future in asked:
                future.cancel()
            raise
        for (_, future), answer in zip(asked, answers, strict=True):
            # Who asked may have given up.
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
