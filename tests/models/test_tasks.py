"""Ending tasks, also those that do not hear it at first."""

from __future__ import annotations

import asyncio

from models import tasks


async def hear_the_third(heard: list[int]) -> None:
    """Work on, whatever swallows the first cancellations."""
    while len(heard) < 3:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(1)
    raise asyncio.CancelledError


async def fail() -> None:
    raise RuntimeError("as asked")


async def test_a_task_is_over_even_if_its_first_cancellations_are_lost() -> None:
    heard: list[int] = []
    task = asyncio.create_task(hear_the_third(heard))
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await tasks.end(task)

    assert (task.done(), len(heard)) == (True, 3)


async def test_one_that_failed_or_never_was_stops_nobody() -> None:
    failed, working = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(100))
    await asyncio.sleep(0)

    await tasks.end(failed, None, working)

    assert working.cancelled()
