"""From a commit to the listeners of every process, whatever the channel layer and the database do meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers import relay as relay_module
from consumers.hub import Channel, Hub
from consumers.relay import Relay
from models.events import Publication

from .wire import Listener, until

CHAT = "chat:1"


@pytest.fixture(autouse=True, scope="module")
def _impatient() -> Iterator[None]:
    """Seconds in production are moments here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "PARK_SECONDS", 0.02)
        patch.setattr(relay_module, "WATCH_SECONDS", 0.1)
        patch.setattr(relay_module, "HEARTBEAT_SECONDS", 0.02)
        patch.setattr(relay_module, "SILENCE_SECONDS", 0.1)
        patch.setattr(relay_module, "SEND_SECONDS", 0.05)
        yield


class Redis:
    """What lies between the processes, and what may happen to it."""

    def __init__(self) -> None:
        self.inboxes: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.is_away = False
        self.is_frozen = False
        self.loses_batches = False
        self.lost_batches = 0

    async def reach(self) -> None:
        if self.is_away:
            raise ConnectionError("nobody there")
        if self.is_frozen:
            await asyncio.Event().wait()

    def forget_everyone(self) -> None:
        """Come back empty: whoever listened is not known any more."""
        self.inboxes.clear()


class Layer:
    """A channel layer on it, as much of one as the relay uses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def new_channel(self) -> str:
        return uuid4().hex

    async def group_add(self, group: str, name: str) -> None:
        await self._redis.reach()
        self._redis.inboxes[name] = self._inbox

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._redis.reach()
        if self._redis.loses_batches and message["type"] == "batch":
            self._redis.lost_batches += 1
            return
        for inbox in self._redis.inboxes.values():
            inbox.put_nowait(message)

    async def receive(self, name: str) -> dict[str, Any]:
        return await self._inbox.get()

    async def flush(self) -> None:
        self._redis.inboxes = {name: inbox for name, inbox in self._redis.inboxes.items() if inbox is not self._inbox}


class Database:
    """What was committed, in the order of commits."""

    def __init__(self) -> None:
        self.stored: list[Publication] = []
        self.is_away = False
        self.tells_of_news = True

    async def gaps(self, ranges: Sequence[tuple[str, int, int]]) -> list[Publication]:
        self._reach()
        return [
            p for name, after, upto in ranges for p in self.stored if p.channel == name and after < p.offset <= upto
        ]

    async def unseen(self, snapshot: str | None, tops: Mapping[str, int]) -> tuple[list[Publication], str]:
        self._reach()
        seen = len(self.stored) if snapshot is None or not self.tells_of_news else int(snapshot)
        return self.stored[seen:], str(len(self.stored))

    def _reach(self) -> None:
        if self.is_away:
            raise ConnectionError("nobody there")


class Process:
    """A hub and a relay, and somebody who listens."""

    def __init__(self, redis: Redis, database: Database) -> None:
        loop = asyncio.get_running_loop()
        self.hub = Hub(loop.call_soon, loop.time)
        self.lost: list[str] = []
        self.promoted: list[int] = []
        self.relay = Relay(
            self.hub,
            make_layer=lambda: Layer(redis),
            gaps=database.gaps,
            unseen=database.unseen,
            lost=self._lose,
            promote=lambda publication: self.promoted.append(publication.offset),
        )
        self._database = database

    def _lose(self, channel: Channel) -> None:
        self.lost.append(channel.name)
        self.hub.end(channel.name)

    def listen(self) -> Listener:
        listener = Listener()
        self.hub.attach(self.relay.open(CHAT, "epoch", 0), listener, 0)
        return listener

    def commit(self, *offsets: int) -> None:
        """Store publications and pass them on, as the writer does."""
        publications = [publication(offset) for offset in offsets]
        self._database.stored += publications
        self.relay.publish(publications)


class World:
    """Two processes."""

    def __init__(self) -> None:
        self.redis, self.database = Redis(), Database()
        self.here, self.there = (Process(self.redis, self.database) for _ in range(2))

    async def until_joined(self, count: int = 2) -> None:
        await until(lambda: len(self.redis.inboxes) == count, "listening processes")


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    for process in (world.here, world.there):
        await process.relay.start()
    try:
        await world.until_joined()
        yield world
    finally:
        for process in (world.here, world.there):
            await process.relay.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as world:
        yield world


def publication(offset: int, epoch: str = "epoch") -> Publication:
    return Publication(channel=CHAT, offset=offset, epoch=epoch, kind="message.sent", data=b"{}")


async def heard(listener: Listener, offsets: list[int]) -> None:
    """Wait for as many publications, and see that they are these."""
    await until(lambda: len(listener.offsets) >= len(offsets), f"{offsets}, only {listener.offsets}")
    assert listener.offsets == offsets


async def test_a_commit_is_heard_in_every_process(world: World) -> None:
    own, other = world.here.listen(), world.there.listen()
    world.database.tells_of_news = False

    world.here.commit(1, 2)
    world.there.commit(3)

    await heard(own, [1, 2, 3])
    await heard(other, [1, 2, 3])


async def test_what_comes_in_another_order_is_heard_in_order(world: World) -> None:
    listener = world.here.listen()
    world.database.is_away = True

    for offset in (3, 1, 5, 4, 2):
        world.here.relay.accept([publication(offset)])

    await heard(listener, [1, 2, 3, 4, 5])


async def test_what_comes_twice_is_heard_once(world: World) -> None:
    listener = world.here.listen()

    for offset in (1, 1, 2, 1, 3, 3, 2):
        world.here.relay.accept([publication(offset)])
    world.here.relay.accept([publication(4)])

    await heard(listener, [1, 2, 3, 4])


async def test_a_gap_is_filled_from_the_database(world: World) -> None:
    listener = world.there.listen()
    world.database.tells_of_news = False
    world.redis.loses_batches = True
    world.here.commit(1, 2)
    await until(lambda: world.redis.lost_batches, "loss")

    world.redis.loses_batches = False
    world.here.commit(3)

    await heard(listener, [1, 2, 3])
    assert world.there.lost == []


async def test_a_gap_is_filled_as_soon_as_the_database_is_back(world: World) -> None:
    listener = world.here.listen()
    world.database.is_away = True
    world.database.stored = [publication(1), publication(2)]
    world.here.relay.accept([publication(2)])
    await until(lambda: world.here.relay._healing and world.here.relay._healing.done(), "first try")
    assert listener.offsets == []

    world.database.is_away = False

    await heard(listener, [1, 2])


async def test_a_hole_in_the_database_ends_the_subscriptions_instead_of_being_passed_over(world: World) -> None:
    listener = world.here.listen()
    world.database.stored = [publication(1), publication(3)]

    world.here.relay.accept([publication(1), publication(3)])

    await until(lambda: world.here.lost == [CHAT], "end of the channel")
    assert listener.offsets == [1]


async def test_another_life_of_a_stream_ends_the_subscriptions(world: World) -> None:
    listener = world.here.listen()
    world.here.relay.accept([publication(1)])
    await heard(listener, [1])

    world.here.relay.accept([publication(2, epoch="another")])

    await until(lambda: world.here.lost == [CHAT], "end of the channel")
    assert listener.offsets == [1]


async def test_a_hint_is_heard_without_a_place_in_the_order(world: World) -> None:
    listener = world.here.listen()

    world.here.relay.accept([publication(0), publication(1), publication(0)])

    await heard(listener, [0, 1, 0])


async def test_without_redis_the_database_brings_everything(world: World) -> None:
    own, other = world.here.listen(), world.there.listen()
    world.redis.is_away = True

    for offset in range(1, 21):
        world.here.commit(offset)
        await asyncio.sleep(0)

    await heard(own, list(range(1, 21)))
    await heard(other, list(range(1, 21)))


async def test_frozen_redis_delays_nobody_here(world: World) -> None:
    own, other = world.here.listen(), world.there.listen()
    world.redis.is_frozen = True
    began = time.monotonic()

    for offset in range(1, 21):
        world.here.commit(offset)
        await heard(own, list(range(1, offset + 1)))

    assert time.monotonic() - began < 1
    await heard(other, list(range(1, 21)))


@pytest.mark.parametrize("outage", ["is_away", "is_frozen"])
async def test_redis_that_comes_back_is_used_again(world: World, outage: str) -> None:
    listener = world.there.listen()
    setattr(world.redis, outage, True)
    await until(lambda: not world.redis.inboxes, "silence")

    setattr(world.redis, outage, False)
    await world.until_joined()
    world.database.tells_of_news = False
    world.here.commit(1)

    await heard(listener, [1])


async def test_redis_that_comes_back_empty_is_joined_again(world: World) -> None:
    listener = world.there.listen()
    world.redis.forget_everyone()

    await world.until_joined()
    world.database.tells_of_news = False
    world.here.commit(1)

    await heard(listener, [1])


async def test_what_is_heard_while_a_connection_is_made_is_not_missed(world: World) -> None:
    # It has read that the stream ends at 1; before it is attached, two more come.
    for offset in (1, 2, 3):
        world.here.relay.accept([publication(offset)])

    channel = world.here.relay.open(CHAT, "epoch", 1)

    assert channel.top == 3
    assert [p.offset for p in world.here.relay.since(channel, 1) or ()] == [2, 3]
    assert world.here.relay.since(channel, 3) == []


async def test_what_is_no_longer_at_hand_is_said_to_be_missing(world: World) -> None:
    listener = world.here.listen()
    world.here.relay.accept([publication(1), publication(2)])
    await heard(listener, [1, 2])

    for _ in range(2):
        world.here.relay._turn_recent()
    world.here.relay.accept([publication(3)])

    assert world.here.relay.since(world.here.hub.channels[CHAT], 1) is None
    assert [p.offset for p in world.here.relay.since(world.here.hub.channels[CHAT], 2) or ()] == [3]


async def test_a_channel_that_is_only_known_calls_for_its_subscribers(world: World) -> None:
    world.here.hub.know(CHAT, "epoch", 2, Listener())

    world.here.relay.accept([publication(1), publication(2), publication(3)])

    assert world.here.promoted == [3]


@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(st.lists(st.integers(1, 12), max_size=5), max_size=10),
    top=st.integers(1, 12),
)
def test_whatever_arrives_everything_is_heard_once_and_in_order(arrivals: list[list[int]], top: int) -> None:
    async def story() -> None:
        async with running() as world:
            listener = world.here.listen()
            world.database.stored = [publication(offset) for offset in range(1, top + 1)]
            for batch in arrivals:
                world.here.relay.accept([publication(offset) for offset in batch if offset <= top])
                await asyncio.sleep(0)
            await heard(listener, list(range(1, top + 1)))
            assert world.here.lost == []

    asyncio.run(story())
