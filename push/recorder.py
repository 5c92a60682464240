"""
Stores the results of many tries in one transaction: what came in while the last one was committing goes with the next.

A result is kept until it is stored. Its sender has so many pushes under way and no more, so what waits here is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError

from models import threads
from models.deliveries import ClearResult, Result
from models.errors import Unavailable
from models.operations import notifications as operations

log = structlog.get_logger("push")

# The database is away: look again this often.
RETRY_SECONDS = 1.0


@dataclass
class _Batch:
    """What waits to be stored, and who waits for that."""

    results: list[Result] = field(default_factory=list)
    clears: list[ClearResult] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Recorder:
    """One per worker; ``run`` is its loop."""

    def __init__(self) -> None:
        self._batch = _Batch()
        self._work = asyncio.Event()

    async def record(self, results: Sequence[Result]) -> None:
        """Return when these results are stored."""
        if results:
            self._batch.results.extend(results)
            await self._stored()

    async def record_clears(self, results: Sequence[ClearResult]) -> None:
        """Return when these results are stored."""
        if results:
            self._batch.clears.extend(results)
            await self._stored()

    async def run(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._batch = self._batch, _Batch()
            await self._store(operations.record_results, batch.results)
            await self._store(operations.record_clears, batch.clears)
            for stored in batch.waiting:
                if not stored.done():
                    stored.set_result(None)

    async def _stored(self) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batch.waiting.append(stored)
        self._work.set()
        await stored

    async def _store(self, record: Callable[[Sequence[Any]], None], results: Sequence[Any]) -> None:
        while results:
            try:
                await threads.run(record, results)
                return
            except (OperationalError, InterfaceError, Unavailable) as error:
                log.warning("push.not_recorded", results=len(results), error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # Repeating would stop everything behind it; their leases run out, and they are tried again.
                log.exception("push.results_refused", results=len(results))
                return
