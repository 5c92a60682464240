"""
Django's cache, where allauth counts log-ins: in Redis for all processes, in this one alone while Redis is away.

A log-in must not fail, nor go uncounted, because Redis does not answer.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

# Redis that did not answer is not asked again for so long, so that not every request waits for its time-out.
REST_SECONDS = 5.0

_resting_until = 0.0


class Json:
    """How values are kept in Redis; Django's own way, pickle, would run what somebody else put there."""

    def dumps(self, value: Any) -> bytes:
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        return msgspec.json.decode(data)


class SteadyCache(RedisCache):
    """Redis, or what this process remembers."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        # By its name it is the same for all threads of the process.
        self._own = LocMemCache("while-redis-is-away", params)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._ask("add", key, value, timeout=timeout, version=version))

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self._ask("get", key, default, version=version)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._ask("set", key, value, timeout=timeout, version=version)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._ask("touch", key, timeout=timeout, version=version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(self._ask("delete", key, version=version))

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        global _resting_until
        if time.monotonic() >= _resting_until:
            try:
                return getattr(super(), method)(*args, **kwargs)
            except (RedisError, OSError) as error:
                log.warning("the cache does without Redis for %g s: %s", REST_SECONDS, error)
                _resting_until = time.monotonic() + REST_SECONDS
        return getattr(self._own, method)(*args, **kwargs)
