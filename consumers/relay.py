"""
From a commit to every process: the own hub at once, the others through the channel layer, one message per batch.

The channel layer may lose, double, reorder, freeze or come back empty, and no client may notice: offsets are compared,
what is early waits a moment, gaps are read from PostgreSQL, and every few seconds PostgreSQL is asked for all that its
last snapshot could not see.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec

from models import tasks
from models.events import Publication

from .hub import Channel, Hub

log = logging.getLogger(__name__)

GROUP = "roost.relay"
# Two processes that write to one conversation interleave; most of what is early is in order a moment later.
PARK_SECONDS = 0.075
# The bound on what Redis can hide.
WATCH_SECONDS = 5.0
HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
# A process that was not heard for so long is gone.
FORGOTTEN_SECONDS = 10.0
# Redis that takes longer for one batch is taken for frozen; the horizon query covers what is dropped.
SEND_SECONDS = 2.0
MAX_WAITING_BATCHES = 1_000
# After a batch the next one waits so long: under load it carries many, and all who hear it wake up less often.
PACE_SECONDS = 0.002
# How long, and how many, publications are kept at hand for connections that are just being made.
RECENT_SECONDS = 5.0
MAX_RECENT = 20_000

Gaps = Callable[[Sequence[tuple[str, int, int]]], Awaitable[list[Publication]]]
Unseen = Callable[[str | None, Mapping[str, int]], Awaitable[tuple[list[Publication], str]]]
Lost = Callable[[Channel], None]
Promote = Callable[[Publication], None]
Obey = Callable[[bytes], None]


class Relay:
    """One per process. ``lost`` is called for a channel whose gap PostgreSQL cannot fill."""

    def __init__(
        self,
        hub: Hub,
        *,
        make_layer: Callable[[], Any],
        gaps: Gaps,
        unseen: Unseen,
        lost: Lost,
        promote: Promote,
        obey: Obey = lambda order: None,
    ) -> None:
        self._hub = hub
        self._make_layer = make_layer
        self._gaps = gaps
        self._unseen = unseen
        self._lost = lost
        self._promote = promote
        self._obey = obey
        self.node = uuid4().hex
        # The other processes, each with when it was heard last.
        self._heard: dict[str, float] = {}
        self._orders: deque[bytes] = deque(maxlen=MAX_WAITING_BATCHES)
        self._early: dict[str, dict[int, Publication]] = {}
        self._recent: dict[str, list[Publication]] = {}
        self._recent_before: dict[str, list[Publication]] = {}
        self._recent_count = 0
        self._outgoing: deque[list[Publication]] = deque(maxlen=MAX_WAITING_BATCHES)
        self._wake = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._heal_timer: asyncio.TimerHandle | None = None
        self._healing: asyncio.Task[None] | None = None
        self._snapshot: str | None = None
        self._heard_at = 0.0
        self._layer: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Publication]).decode

    async def start(self) -> None:
        """Begin to send, hear and watch; neither Redis nor PostgreSQL has to be there."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            self._loop.create_task(work(), name=work.__name__)
            for work in (self._send_batches, self._listen, self._beat, self._watch, self._forget_recent)
        ]

    async def stop(self) -> None:
        await tasks.end(*self._tasks, self._healing)
        if self._heal_timer:
            self._heal_timer.cancel()
        await self._close_layer(self._layer)

    # --- taking in

    def publish(self, publications: list[Publication]) -> None:
        """Pass on what this process has committed. In the loop's thread, right after the commit."""
        self.accept(publications)
        self._outgoing.append(publications)
        self._wake.set()

    def order(self, order: bytes) -> None:
        """Have the other processes do something, as far as Redis tells them; ``obey`` is called there."""
        self._orders.append(order)
        self._wake.set()

    def others(self) -> set[str]:
        """The other processes that were heard lately."""
        oldest = self._loop.time() - FORGOTTEN_SECONDS
        return {node for node, heard in self._heard.items() if heard > oldest}

    def accept(self, publications: Iterable[Publication]) -> None:
        """Take publications from anywhere: in any order, more than once."""
        channels, known = self._hub.channels, self._hub.known
        for publication in publications:
            if publication.offset:
                self._remember(publication)
            name = publication.channel
            if name in known and publication.offset > known[name].top:
                self._promote(publication)
            channel = channels.get(name)
            if channel is not None:
                self._order(channel, publication)

    def open(self, name: str, epoch: str, top: int) -> Channel:
        """
        Return a channel for somebody who has read that its stream ends at ``top``.

        If nobody listened to it so far, what was heard since is taken in now.
        """
        if name in self._hub.channels:
            return self._hub.channels[name]
        channel = self._hub.open(name, epoch, top)
        for publication in self.recent(name):
            self._order(channel, publication)
        return channel

    def recent(self, name: str) -> list[Publication]:
        """The publications of a channel that were heard lately, in order and each once."""
        found = {p.offset: p for p in (*self._recent_before.get(name, ()), *self._recent.get(name, ()))}
        return [found[offset] for offset in sorted(found)]

    def since(self, channel: Channel, offset: int) -> list[Publication] | None:
        """What a channel took in after ``offset``, or None if that is no longer at hand."""
        if offset >= channel.top:
            return []
        found = [p for p in self.recent(channel.name) if offset < p.offset <= channel.top]
        return found if len(found) == channel.top - offset else None

    def _order(self, channel: Channel, publication: Publication) -> None:
        offset = publication.offset
        if not offset:
            self._hub.deliver(channel, publication)
        elif publication.epoch != channel.epoch:
            self._lost(channel)
        elif offset == channel.top + 1:
            self._hub.deliver(channel, publication)
            if channel.name in self._early:
                self._drain(channel)
        elif offset > channel.top:
            self._early.setdefault(channel.name, {})[offset] = publication
            self._heal_soon()

    def _drain(self, channel: Channel) -> None:
        early = self._early[channel.name]
        while (publication := early.pop(channel.top + 1, None)) is not None:
            self._hub.deliver(channel, publication)
        for offset in [offset for offset in early if offset <= channel.top]:
            del early[offset]
        if not early:
            del self._early[channel.name]

    def _remember(self, publication: Publication) -> None:
        self._recent.setdefault(publication.channel, []).append(publication)
        self._recent_count += 1
        if self._recent_count >= MAX_RECENT:
            self._turn_recent()

    def _turn_recent(self) -> None:
        self._recent_before, self._recent, self._recent_count = self._recent, {}, 0

    async def _forget_recent(self) -> None:
        while True:
            await asyncio.sleep(RECENT_SECONDS)
            self._turn_recent()
            there = self.others()
            self._heard = {node: heard for node, heard in self._heard.items() if node in there}

    # --- gaps

    def _heal_soon(self) -> None:
        if self._heal_timer is None and (self._healing is None or self._healing.done()):
            self._heal_timer = self._loop.call_later(PARK_SECONDS, self._start_healing)

    def _start_healing(self) -> None:
        self._heal_timer = None
        if self._early:
            self._healing = self._loop.create_task(self._heal())

    async def _heal(self) -> None:
        gaps = self._open_gaps()
        try:
            found = await self._gaps([(channel.name, channel.top, upto) for channel, upto in gaps])
        except Exception as error:
            # The database is away: they stay parked, and are tried again with the next look.
            log.warning("gaps cannot be read: %s", error)
            return
        for publication in found:
            channel = self._hub.channels.get(publication.channel)
            if channel is not None:
                self._order(channel, publication)
        asked = {channel.name: upto for channel, upto in gaps}
        for channel, upto in self._open_gaps():
            # Still a hole below what was asked for: it is gone for good.
            if upto <= asked.get(channel.name, -1):
                self._lost(channel)
        if self._early:
            self._heal_timer = self._loop.call_later(PARK_SECONDS, self._start_healing)

    def _open_gaps(self) -> list[tuple[Channel, int]]:
        """The channels that have early publications, each with the offset before its first one."""
        for name in [name for name in self._early if name not in self._hub.channels]:
            del self._early[name]
        return [(self._hub.channels[name], min(early) - 1) for name, early in self._early.items()]

    # --- the watchdog

    async def _watch(self) -> None:
        while True:
            try:
                tops = {name: channel.top for name, channel in self._hub.channels.items()}
                tops |= {name: known.top for name, known in self._hub.known.items() if name not in tops}
                found, self._snapshot = await self._unseen(self._snapshot, tops)
                self.accept(found)
                self._start_healing()
            except Exception as error:
                log.warning("the database cannot be asked for what was missed: %s", error)
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(WATCH_SECONDS)

    # --- the channel layer

    async def _send_batches(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._orders and self._layer is not None:
                await self._send({"type": "order", "from": self.node, "order": self._orders.popleft()})
            while self._outgoing and self._layer is not None:
                publications = [p for batch in self._outgoing for p in batch]
                self._outgoing.clear()
                await self._send({"type": "batch", "from": self.node, "publications": self._encode(publications)})
                await asyncio.sleep(PACE_SECONDS)

    async def _beat(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._beat_now.wait()
            self._beat_now.clear()
            await self._send({"type": "heartbeat", "from": self.node})

    async def _send(self, message: dict[str, object]) -> None:
        if self._layer is None:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._layer.group_send(GROUP, message)
        except Exception as error:
            # Whatever the layer raises: others read it from the database within the horizon.
            log.debug("the channel layer did not take a message: %r", error)

    async def _listen(self) -> None:
        """Hear the others, over a new layer whenever the own heartbeat has not come back."""
        while True:
            layer = self._make_layer()
            hearing = self._loop.create_task(self._hear(layer))
            self._heard_at = self._loop.time()
            try:
                while not hearing.done() and self._loop.time() - self._heard_at < SILENCE_SECONDS:
                    await asyncio.wait([hearing], timeout=HEARTBEAT_SECONDS / 2)
                if hearing.done() and not hearing.cancelled() and (error := hearing.exception()):
                    log.debug("the channel layer fell silent: %r", error)
                    await asyncio.sleep(HEARTBEAT_SECONDS)
            finally:
                await tasks.end(hearing)
                await self._close_layer(layer)
                self._layer = None

    async def _hear(self, layer: Any) -> None:
        name = await layer.new_channel()
        async with asyncio.timeout(SEND_SECONDS):
            await layer.group_add(GROUP, name)
        self._layer = layer
        self._wake.set()
        self._beat_now.set()
        while True:
            message = await layer.receive(name)
            if message["from"] == self.node:
                self._heard_at = self._loop.time()
                continue
            if message["from"] not in self._heard:
                # A new process: it has to hear of this one before it asks all for something.
                self._beat_now.set()
            self._heard[message["from"]] = self._loop.time()
            if message["type"] == "batch":
                self.accept(self._decode(message["publications"]))
            elif message["type"] == "order":
                self._obey(message["order"])

    async def _close_layer(self, layer: Any) -> None:
        if layer is None:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await layer.flush()
        except Exception as error:
            log.debug("the channel layer did not close: %r", error)
