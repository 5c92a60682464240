"""
Requests per minute, counted in Redis for all processes together; in this process alone while Redis is away.

A window of a minute, by the clock: simple, and the client is told when the next one begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.errors import TooManyRequests

WINDOW_SECONDS = 60
# A limit is not worth waiting for: a Redis that is slower than this is left alone for a while.
REDIS_SECONDS = 0.25
REST_SECONDS = 5.0


class RateLimiter:
    """Counts by key; one per event loop."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=None
        )
        self._resting_until = 0.0
        self._window = 0
        self._counts: Counter[str] = Counter()

    async def take(self, limits: dict[str, int]) -> None:
        """
        Count one request against several limits at once.

        Raises:
            TooManyRequests: one of them is used up; it says for how many seconds.
        """
        now = time.time()
        window = int(now // WINDOW_SECONDS)
        counts = await self._count(list(limits), window)
        if any(count > limit for count, limit in zip(counts, limits.values(), strict=True)):
            raise TooManyRequests(retry_after=(window + 1) * WINDOW_SECONDS - now)

    async def _count(self, keys: list[str], window: int) -> list[int]:
        if time.monotonic() >= self._resting_until:
            try:
                async with asyncio.timeout(REDIS_SECONDS):
                    return await self._count_together(keys, window)
            except (RedisError, OSError, TimeoutError):
                self._resting_until = time.monotonic() + REST_SECONDS
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts.update(keys)
        return [self._counts[key] for key in keys]

    async def _count_together(self, keys: list[str], window: int) -> list[int]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                name = f"roost:rate:{window}:{key}"
                pipeline.incr(name)
                pipeline.expire(name, 2 * WINDOW_SECONDS)
            return [int(count) for count in (await pipeline.execute())[::2]]


_limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, RateLimiter] = WeakKeyDictionary()


def limiter() -> RateLimiter:
    """Return the limiter of this event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _limiters:
        _limiters[loop] = RateLimiter(settings.ROOST.redis_url)
    return _limiters[loop]
