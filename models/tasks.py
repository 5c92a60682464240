"""Tasks of the event loop that somebody answers for: started in a group, ended with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

# A task that has been cancelled is over within a turn or two of the loop; one that is not did not hear of it.
AGAIN_SECONDS = 0.1


class Group:
    """What was begun and need not be waited for; the loop itself keeps no task alive."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Give up what is still under way."""
        await end(*self._tasks)


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """
    Cancel tasks until they are over; how they end is passed over.

    Once is not enough: the client of Redis waits by ``asyncio.wait_for``, which in Python 3.11 swallows a cancellation
    that meets the result. A loop around it would go on, and whoever waits for its end would wait for ever.
    """
    there = [task for task in tasks if task]
    while running := [task for task in there if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_SECONDS)
    await asyncio.gather(*there, return_exceptions=True)
