"""
Shows a worker's figures to Prometheus: ``/metrics`` over plain HTTP, from a thread of its own.

What the database knows (queues, receipts) is looked up by a task in between, so that a scrape never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from socketserver import BaseServer
from threading import Thread
from time import monotonic

import structlog
from prometheus_client import ProcessCollector, start_http_server

from models import tasks, threads
from models.queries import push_figures
from push.metrics import Metrics

log = structlog.get_logger("worker")

# As often as Prometheus usually asks.
QUEUE_SECONDS = 15.0
RECEIPTS_SECONDS = 60.0


class MetricsServer:
    """Answers at one address from ``start`` to ``stop``."""

    def __init__(self, metrics: Metrics, providers: Sequence[str]) -> None:
        self._metrics = metrics
        self._providers = providers
        self._server: BaseServer | None = None
        self._thread: Thread | None = None
        self._looking: asyncio.Task[None] | None = None

    def start(self, host: str, port: int) -> None:
        """
        Listen.

        Raises:
            OSError: the address is taken, or is none of this machine's.
        """
        ProcessCollector(registry=self._metrics.registry)
        self._server, self._thread = start_http_server(port, host, self._metrics.registry)
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        await tasks.end(self._looking)
        if self._server and self._thread:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            self._thread.join()

    async def _look(self) -> None:
        receipts_at = 0.0
        while True:
            try:
                queues = await threads.run(push_figures.queues, self._providers)
                self._metrics.show_queues(queues, await threads.run(push_figures.outbox))
                if monotonic() >= receipts_at:
                    receipts_at = monotonic() + RECEIPTS_SECONDS
                    self._metrics.show_receipts(await threads.run(push_figures.receipts))
            except Exception as error:
                # Whatever it is: figures that look like now's and are not would be worse than none.
                log.warning("metrics.unknown", error=type(error).__name__)
                self._metrics.forget_queues()
            await asyncio.sleep(QUEUE_SECONDS)
