"""
Which devices have a live socket somewhere, told through keys in Redis that expire by themselves.

Web processes ``add`` and ``remove`` their devices and renew the keys; workers ask ``which``. A marker, written by the
first process that finds none, says since when Redis has been listening: only after one expiry can it know everybody.
Nobody waits for Redis, and being wrong only moves a push by its few seconds of grace.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models import tasks

log = structlog.get_logger("live_devices")

MARKER = "roost:live-since"
# A process that dies takes so long to be forgotten; three renewals fit in.
EXPIRY_SECONDS = 60
RENEW_SECONDS = 20.0
# After a change others follow: one round trip tells of all of them.
COALESCE_SECONDS = 0.05
REDIS_SECONDS = 2.0
# Keys per round trip, so that none is long.
SLICE = 1_000

# One command for many keys: everything that is said one by one costs the client more than it costs Redis.
_SET = "for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'EX', ARGV[2]) end"
# Only our own: the device may have come back to another process before its old socket was found dead. Returns which.
_DELETE_OURS = """
local gone = {}
for place, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then
        redis.call('DEL', key)
        gone[#gone + 1] = place
    end
end
return gone
"""

# Told of devices whose last socket has closed.
OnGone = Callable[[Sequence[UUID]], Awaitable[None]]


class LiveDevices:
    """
    One per process. ``start`` is for web processes, which have devices to tell of; asking needs no start.

    ``on_gone`` is called soon after a device has lost its last socket, once for many; it has to deal with its errors.
    """

    def __init__(self, redis_url: str, on_gone: OnGone | None = None) -> None:
        self._on_gone = on_gone
        self._redis = Redis.from_url(redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._sockets: Counter[UUID] = Counter()
        self._changed: set[UUID] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell Redis of this process's devices from now on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Say nothing more; the devices of this process are forgotten, by their sockets' end or by expiry."""
        await tasks.end(self._task)
        await self._redis.aclose()

    def add(self, device_id: UUID) -> None:
        """A socket of this device is open."""
        self._sockets[device_id] += 1
        self._tell(device_id)

    def remove(self, device_id: UUID) -> None:
        """A socket of this device has closed."""
        self._sockets[device_id] -= 1
        if self._sockets[device_id] <= 0:
            del self._sockets[device_id]
        self._tell(device_id)

    async def which(self, device_ids: Sequence[UUID]) -> Collection[UUID] | None:
        """Those with a live socket, or None while Redis cannot know."""
        try:
            since, (now, _) = await self._redis.get(MARKER), await self._redis.time()
            if since is None or now - float(since) < EXPIRY_SECONDS:
                return None
            live: set[UUID] = set()
            for part in _slices(device_ids):
                values = await self._redis.mget([_key(device_id) for device_id in part])
                live.update(device_id for device_id, value in zip(part, values, strict=True) if value is not None)
            return live
        except (RedisError, OSError) as error:
            log.debug("live_devices.unknown", error=type(error).__name__)
            return None

    def _tell(self, device_id: UUID) -> None:
        self._changed.add(device_id)
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        renew_at = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at):
                    await self._wake.wait()
                await asyncio.sleep(COALESCE_SECONDS)
            self._wake.clear()
            changed, self._changed = self._changed, set()
            if loop.time() >= renew_at:
                renew_at = loop.time() + RENEW_SECONDS
                changed.update(self._sockets)
            # What could not be told is told with the next renewal.
            with suppress(RedisError, OSError):
                await self._write(changed)

    async def _write(self, device_ids: Collection[UUID]) -> None:
        now, _ = await self._redis.time()
        await self._redis.set(MARKER, now, nx=True)
        for part in _slices(device_ids):
            here = [_key(device_id) for device_id in part if device_id in self._sockets]
            gone = [device_id for device_id in part if device_id not in self._sockets]
            if here:
                await self._redis.eval(_SET, len(here), *here, self._name, EXPIRY_SECONDS)
            if gone:
                places = await self._redis.eval(_DELETE_OURS, len(gone), *map(_key, gone), self._name)
                if places and self._on_gone:
                    await self._on_gone([gone[place - 1] for place in places])


def _key(device_id: UUID) -> str:
    return f"roost:live:{device_id}"


def _slices(device_ids: Iterable[UUID]) -> Iterator[list[UUID]]:
    ids = list(device_ids)
    for start in range(0, len(ids), SLICE):
        yield ids[start : start + SLICE]
