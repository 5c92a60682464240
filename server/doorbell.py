"""
Tells workers, through Redis, that the push outbox has something new.

A hint and nothing more: workers look every second anyway. Whoever rings never waits and never fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models import tasks

log = structlog.get_logger("doorbell")

CHANNEL = "roost:push"
# Many commits within this time ring once.
COALESCE_SECONDS = 0.02
MAX_RINGS = 4
# Redis is away: try again this often. The workers' poll covers the time between.
RETRY_SECONDS = 2.0
# A subscription that has been silent for so long is checked; a dead connection is noticed.
LISTEN_SECONDS = 10.0


class Doorbell:
    """Both ends: web processes ``ring``, workers ``listen``."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=LISTEN_SECONDS + 5, socket_connect_timeout=2, health_check_interval=10
        )
        self._rings: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._is_heard = True
        self._listening: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Wake the workers soon. To be called from the event loop, after each commit."""
        # With Redis frozen the first few hang until their time-out; more of them would help nobody.
        if self._is_scheduled or len(self._rings) >= MAX_RINGS:
            return
        self._is_scheduled = True
        ring = asyncio.create_task(self._ring())
        self._rings.add(ring)
        ring.add_done_callback(self._rings.discard)

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever somebody rings, until closed."""
        self._listening = asyncio.create_task(self._listen(wake))

    async def close(self) -> None:
        await tasks.end(*self._rings, self._listening)
        await self._redis.aclose()

    async def _ring(self) -> None:
        await asyncio.sleep(COALESCE_SECONDS)
        # Before publishing: what is committed from here on needs a ring of its own.
        self._is_scheduled = False
        with suppress(RedisError, OSError):
            await self._redis.publish(CHANNEL, b"")

    async def _listen(self, wake: Callable[[], None]) -> None:
        while True:
            try:
                await self._hear(wake)
            except (RedisError, OSError) as error:
                self._say(is_heard=False, error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _hear(self, wake: Callable[[], None]) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            self._say(is_heard=True)
            while True:
                message: Any = await subscription.get_message(ignore_subscribe_messages=True, timeout=LISTEN_SECONDS)
                if message is not None:
                    wake()

    def _say(self, *, is_heard: bool, **facts: str) -> None:
        # Once per change: an outage lasts for many tries.
        if is_heard != self._is_heard:
            self._is_heard = is_heard
            log.info("doorbell.heard" if is_heard else "doorbell.silent", **facts)
