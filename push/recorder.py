"""
Stores the results of many tries in one transaction: what came in while the last one was committing goes with the next.

A result is kept until it is stored. Its slot at the provider stays taken until then, so what waits here is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from django.db import InterfaceError, OperationalError

from models import threads
from models.deliveries import Result
from models.errors import Unavailable
from models.operations import notifications as operations

log = structlog.get_logger("push")

# The database is away: look again this often.
RETRY_SECONDS = 1.0


class Recorder:
    """One per worker; ``run`` is its loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Sequence[Result], asyncio.Future[None]]] = []
        self._work = asyncio.Event()

    async def record(self, results: Sequence[Result]) -> None:
        """Return when these results are stored."""
        if not results:
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((results, stored))
        self._work.set()
        await stored

    async def run(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._waiting = self._waiting, []
            await self._store([result for results, _ in batch for result in results])
            for _, stored in batch:
                if not stored.done():
                    stored.set_result(None)

    async def _store(self, results: Sequence[Result]) -> None:
        while True:
            try:
                await threads.run(operations.record_results, results)
                return
            except (OperationalError, InterfaceError, Unavailable) as error:
                log.warning("push.not_recorded", results=len(results), error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # Repeating would stop everything behind it; their leases run out, and they are tried again.
                log.exception("push.results_refused", results=len(results))
                return
