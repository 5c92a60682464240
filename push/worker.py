"""
The push loop: plans what the outbox holds and sends what is due, until it is stopped.

``wake`` may be called at any time and be lost at any time: the poll is the guarantee. Started by the ``worker``
command; many may run on one database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog
from django.db import Error

from models.errors import Unavailable

from .metrics import Metrics
from .payload import Look
from .planner import NOTIFICATIONS_PER_CLAIM, Connected, Planner, Schedule
from .providers.base import Provider
from .recorder import Recorder
from .rules import Rules
from .sender import Sender

log = structlog.get_logger("push")

POLL_SECONDS = 1.0
# What is in flight has so long to end. A provider that stalls for longer is left to the end of the lease.
STOP_SECONDS = 10.0
# Who has not opened the app for so long has stopped using it on this device.
STALE_AFTER = timedelta(days=60)


class Worker:
    """Plans and sends pushes through these providers."""

    def __init__(
        self,
        providers: Sequence[Provider],
        schedule: Schedule,
        connected: Connected,
        *,
        look: Look,
        stale_after: timedelta = STALE_AFTER,
        metrics: Metrics | None = None,
    ) -> None:
        self._schedule = schedule
        self.metrics = metrics or Metrics()
        self._planner = Planner(schedule, connected, self.metrics)
        self._recorder = Recorder()
        rules = Rules(
            default_provider=schedule.default_provider,
            providers=frozenset(provider.name for provider in providers),
            look=look,
            stale_after=stale_after,
        )
        self.senders = [Sender(provider, self._recorder, rules, self.metrics) for provider in providers]
        self.planned = 0
        self._stopping = asyncio.Event()
        self._plan_wake = asyncio.Event()
        self._send_wakes = [asyncio.Event() for _ in self.senders]
        self._on_beat: Callable[[], None] = lambda: None

    def on_beat(self, callback: Callable[[], None]) -> None:
        """Call this after every look into the outbox that succeeded: a sign of life."""
        self._on_beat = callback

    def wake(self) -> None:
        """Look into the outbox now. Only a hint, from the event loop's thread."""
        self._plan_wake.set()

    def stop(self) -> None:
        """Claim nothing more; ``run`` returns when what is in flight has ended."""
        self._stopping.set()
        for event in (self._plan_wake, *self._send_wakes):
            event.set()

    async def run(self) -> None:
        """Work until ``stop`` is called."""
        recording = asyncio.create_task(self._recorder.run())
        loops = [asyncio.create_task(self._loop(self._plan, self._plan_wake))]
        for sender, wake in zip(self.senders, self._send_wakes, strict=True):
            sender.on_free(wake.set)
            loops.append(asyncio.create_task(self._loop(sender.send_due, wake)))
        try:
            await asyncio.gather(*loops)
            await asyncio.gather(*(sender.finish(STOP_SECONDS) for sender in self.senders))
        finally:
            for task in (*loops, recording):
                task.cancel()
            await asyncio.gather(*loops, recording, return_exceptions=True)
            await asyncio.gather(*(sender.courier.provider.close() for sender in self.senders))

    async def _plan(self) -> bool:
        planned = await self._planner.plan_due()
        self.planned += planned
        self._on_beat()
        if planned:
            self._wake_senders()
            # The devices that were spared become due then; the poll would be up to a second late.
            for seconds in (self._schedule.grace_seconds, self._schedule.active_elsewhere_seconds):
                asyncio.get_running_loop().call_later(seconds, self._wake_senders)
        return planned == NOTIFICATIONS_PER_CLAIM

    def _wake_senders(self) -> None:
        for wake in self._send_wakes:
            wake.set()

    async def _loop(self, step: Callable[[], Awaitable[bool]], wake: asyncio.Event) -> None:
        """Call ``step`` whenever it is woken, and every second. It returns whether there is more to do."""
        while not self._stopping.is_set():
            wake.clear()
            try:
                has_more = await step()
            except (Error, Unavailable) as error:
                log.warning("push.database_unavailable", error=type(error).__name__)
                has_more = False
            except Exception:
                # One bad row or bug must not end the loop that everybody's pushes depend on.
                log.exception("push.step_failed")
                has_more = False
            if not has_more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await wake.wait()
