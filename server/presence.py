"""
Who is in which channel, in Redis: a hash for each channel, its entries renewed by the process that has the client.

What a process that died leaves behind is passed over once it is old. Without Redis a process knows its own clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumers.info import Info
from models import tasks

log = structlog.get_logger("presence")

PREFIX = "roost:presence:"
# An entry that nobody renewed for so long is of a process that has died.
EXPIRY_SECONDS = 60
RENEW_SECONDS = 25.0
# A subscribe reply waits for its entry, but not for a Redis that is stuck.
REDIS_SECONDS = 0.5
# Entries per round trip when they are renewed.
SLICE = 500


class _Entry(msgspec.Struct, array_like=True, gc=False):
    """One client in one channel, as Redis has it."""

    renewed_at: float
    info: Info


class RedisPresence:
    """One per process."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._own: dict[str, dict[str, Info]] = {}
        self._gone: list[tuple[str, str]] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Renew and remove from now on."""
        self._tasks = [asyncio.create_task(work()) for work in (self._renew, self._remove_gone)]

    async def stop(self) -> None:
        """Forget this process's clients."""
        await tasks.end(*self._tasks)
        own, self._own = self._own, {}
        self._gone += [(channel, client) for channel, there in own.items() for client in there]
        await self._flush_gone()
        await self._redis.aclose()

    async def add(self, channel: str, info: Info) -> None:
        self._own.setdefault(channel, {})[info.client] = info
        await self._write([(channel, info)])

    async def remove(self, channel: str, client: str) -> None:
        self.remove_soon(channel, client)
        await self._flush_gone()

    def remove_soon(self, channel: str, client: str) -> None:
        there = self._own.get(channel)
        if there is None or there.pop(client, None) is None:
            return
        if not there:
            del self._own[channel]
        self._gone.append((channel, client))
        self._wake.set()

    async def read(self, channel: str) -> Mapping[str, Info]:
        oldest = time.time() - EXPIRY_SECONDS
        found: dict[str, Info] = {}
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(REDIS_SECONDS):
                for stored in await self._redis.hvals(PREFIX + channel):
                    entry = _decode(cast(bytes, stored))
                    if entry.renewed_at > oldest:
                        found[entry.info.client] = entry.info
        # Of its own clients a process knows better.
        for gone_from, client in self._gone:
            if gone_from == channel:
                found.pop(client, None)
        return found | self._own.get(channel, {})

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            own = [(channel, info) for channel, there in self._own.items() for info in there.values()]
            for start in range(0, len(own), SLICE):
                await self._write(own[start : start + SLICE])

    async def _remove_gone(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush_gone()

    async def _write(self, entries: list[tuple[str, Info]]) -> None:
        now = time.time()
        try:
            async with asyncio.timeout(REDIS_SECONDS), self._redis.pipeline(transaction=False) as pipeline:
                for channel, info in entries:
                    pipeline.hset(PREFIX + channel, info.client, _encode(_Entry(now, info)))
                for channel in {channel for channel, _ in entries}:
                    pipeline.expire(PREFIX + channel, EXPIRY_SECONDS)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("presence.not_written", error=type(error).__name__)

    async def _flush_gone(self) -> None:
        gone, self._gone = self._gone, []
        # Who has come back meanwhile is there.
        gone = [(channel, client) for channel, client in gone if client not in self._own.get(channel, ())]
        if not gone:
            return
        try:
            async with asyncio.timeout(REDIS_SECONDS), self._redis.pipeline(transaction=False) as pipeline:
                for channel, client in gone:
                    pipeline.hdel(PREFIX + channel, client)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            # They expire by themselves.
            log.debug("presence.not_removed", error=type(error).__name__)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Entry).decode
