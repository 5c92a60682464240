"""
Keys of things to be done once, remembered in Redis for all processes; while Redis is away, by nobody.

For publications that are kept nowhere: doing one twice is the lesser evil than not doing it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

PREFIX = "roost:once:"
REMEMBERED_SECONDS = 300
REDIS_SECONDS = 0.25


class Once:
    """One per event loop."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=None
        )

    async def claim(self, key: str) -> bool:
        """Whether nobody has done it yet; whoever asks first does it."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(REDIS_SECONDS):
                return bool(await self._redis.set(PREFIX + key, 1, nx=True, ex=REMEMBERED_SECONDS))
        return True

    async def release(self, key: str) -> None:
        """It was not done after all."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(REDIS_SECONDS):
                await self._redis.delete(PREFIX + key)


_all: WeakKeyDictionary[asyncio.AbstractEventLoop, Once] = WeakKeyDictionary()


def once() -> Once:
    """Return what this event loop asks."""
    loop = asyncio.get_running_loop()
    if loop not in _all:
        _all[loop] = Once(settings.ROOST.redis_url)
    return _all[loop]
