"""What dies in the middle loses nothing that was acknowledged: web processes, Valkey, PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.flows.follower import Follower
from tests.flows.forwarder import ForgetfulRedis
from tests.flows.people import Person, make_people
from tests.servers import Deployment

CLIENTS = 20
HEAL_SECONDS = 6.0


class Load:
    """Everyone sends to one group, half over each door, until ``stop``, which waits for what is in flight."""

    def __init__(self, deployment: Deployment, followers: list[Follower], group: str) -> None:
        self._deployment = deployment
        self._followers = followers
        self._group = group
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> Load:
        self._tasks = [asyncio.create_task(self._send(n, f)) for n, f in enumerate(self._followers)]
        return self

    async def _send(self, number: int, follower: Follower) -> None:
        web = self._deployment.webs[number // 2 % len(self._deployment.webs)]
        sent = 0
        while not self._is_over:
            text = f"{follower.person.name} {(sent := sent + 1)}"
            if number % 2:
                await follower.send_over_http(web, self._group, text)
            else:
                await follower.send(self._group, text)

    @property
    def acknowledged(self) -> int:
        return sum(len(follower.acknowledged) for follower in self._followers)

    @property
    def in_flight(self) -> int:
        return sum(len(follower.in_flight) for follower in self._followers)

    async def until_more(self, messages: int, seconds: float = 30.0) -> None:
        """Wait until that many more were acknowledged."""
        goal = self.acknowledged + messages
        async with asyncio.timeout(seconds):
            while self.acknowledged < goal:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._is_over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)


async def start_everyone(deployment: Deployment, count: int) -> tuple[list[Follower], str]:
    people = make_people(deployment, *(f"Person-{n}" for n in range(count)))
    group = people[0].make_group(deployment.webs[0], "Everyone", *people[1:])
    webs = deployment.webs
    followers = [
        await Follower(person, webs[n % len(webs) :] + webs[: n % len(webs)]).start() for n, person in enumerate(people)
    ]
    return followers, group


async def check_that_nothing_is_lost(
    deployment: Deployment, followers: list[Follower], group: str, witness: Person | None = None
) -> None:
    """Every acknowledged message is in history once, offsets have no hole, and everyone's view equals history."""
    witness = witness or followers[0].person
    history = await asyncio.to_thread(witness.history, deployment.webs[-1], group)
    seqs = [message["seq"] for message in history]
    assert seqs == sorted(set(seqs))
    kept = [(message["text"], message["seq"]) for message in history if message["kind"] == "text"]
    acknowledged = {text: seq for follower in followers for text, seq in follower.acknowledged.items()}
    assert len({text for text, _ in kept}) == len(kept)
    assert acknowledged.items() <= dict(kept).items()

    with deployment.connect() as connection:
        offsets = connection.execute(
            'SELECT array_agg("offset" ORDER BY "offset"), max(s.top) FROM messaging_publication p '
            "JOIN messaging_stream s ON s.id = p.stream_id WHERE s.id = %s",
            [group],
        ).fetchone()
    assert offsets is not None
    numbers, top = offsets
    assert numbers == list(range(1, int(str(top)) + 1))

    channel = f"chat:{group}"
    for follower in followers:
        await follower.until(lambda f=follower: f.top(channel) == top, f"offset {top}, is at {follower.top(channel)}")
        assert follower.texts(channel) == [text for text, _ in kept]


async def stop_everyone(followers: list[Follower]) -> None:
    for follower in followers:
        await follower.stop()


async def test_killed_web_process_loses_nothing_that_was_acknowledged(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    followers, group = await start_everyone(deployment, CLIENTS)
    load = Load(deployment, followers, group).start()
    victim = deployment.webs[0]
    await load.until_more(50)

    for _ in range(3):
        while not load.in_flight:
            await asyncio.sleep(0)
        unacknowledged = load.in_flight
        victim.kill()
        assert unacknowledged > 0
        await load.until_more(20)
        await asyncio.to_thread(victim.restart)
        await load.until_more(50)

    await load.stop()
    await check_that_nothing_is_lost(deployment, followers, group)
    await stop_everyone(followers)


async def seconds_until_seen(sender: Follower, reader: Follower, group: str, text: str) -> float:
    """How long after its acknowledgement a message took to the other process."""
    await sender.send(group, text)
    began = time.monotonic()
    await reader.until(lambda: text in reader.texts(f"chat:{group}"), text)
    return time.monotonic() - began


async def send_for(seconds: float, sender: Follower, reader: Follower, group: str) -> list[float]:
    """Send ten messages a second, and measure how long each takes to the other process."""
    waits: list[asyncio.Task[float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waits.append(
            asyncio.create_task(
                seconds_until_seen(sender, reader, group, f"{sender.person.name} at {len(waits)} {until}")
            )
        )
        await asyncio.sleep(0.1)
    return list(await asyncio.gather(*waits))


async def test_valkey_may_stop_restart_empty_or_freeze(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    (alice, bob), group = await start_everyone(deployment, 2)
    connected = [follower.times_connected for follower in (alice, bob)]

    await asyncio.to_thread(deployment.valkey.stop)
    waits = await send_for(20, alice, bob, group)
    await asyncio.to_thread(deployment.valkey.start)
    waits += await send_for(5, bob, alice, group)
    assert deployment.valkey.child
    deployment.valkey.child.signal(signal.SIGSTOP)
    waits += await send_for(20, alice, bob, group)
    deployment.valkey.child.signal(signal.SIGCONT)
    waits += await send_for(5, bob, alice, group)

    assert max(waits) < HEAL_SECONDS
    assert [follower.times_connected for follower in (alice, bob)] == connected
    await check_that_nothing_is_lost(deployment, [alice, bob], group)
    await stop_everyone([alice, bob])


async def test_postgres_restarted_under_load_loses_nothing(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2, own_postgres=True)
    followers, group = await start_everyone(deployment, 10)
    load = Load(deployment, followers, group).start()
    assert deployment.postgres

    for _ in range(2):
        await load.until_more(50)
        await asyncio.to_thread(deployment.postgres.restart_immediately)
        await load.until_more(50, seconds=60)

    await load.stop()
    await check_that_nothing_is_lost(deployment, followers, group)
    await stop_everyone(followers)


async def test_two_processes_write_to_the_same_conversations(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    alice, bob = make_people(deployment, "Alice", "Bob")
    here, there = deployment.webs
    groups = [alice.make_group(here, f"Group {n}", bob) for n in range(20)]
    hers, his = await Follower(alice, [here]).start(), await Follower(bob, [there]).start()
    before = deadlocks(deployment)

    async def write(follower: Follower, group: str) -> None:
        until = time.monotonic() + 30
        number = 0
        while time.monotonic() < until:
            await follower.send(group, f"{follower.person.name} {group} {(number := number + 1)}")

    await asyncio.gather(*(write(follower, group) for follower in (hers, his) for group in groups))

    assert deadlocks(deployment) == before
    for group in groups:
        channel = f"chat:{group}"
        top = max(hers.top(channel), his.top(channel))
        for follower in (hers, his):
            await follower.until(lambda f=follower, c=channel, t=top: f.top(c) == t, f"offset {top} of {channel}")
        assert hers.texts(channel) == his.texts(channel)
        await check_that_nothing_is_lost(deployment, [], group, witness=alice)
    await stop_everyone([hers, his])


def deadlocks(deployment: Deployment) -> object:
    with deployment.connect() as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row
    return row[0]


async def test_removed_member_hears_and_says_nothing_more(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    alice, bob = make_people(deployment, "Alice", "Bob")
    here, there = deployment.webs
    group = alice.make_group(here, "Tea", bob)
    hers, his = await Follower(alice, [here]).start(), await Follower(bob, [there]).start()
    await hers.send(group, "before")
    await his.until(lambda: his.texts(f"chat:{group}") == ["before"], "the first message")
    busy = asyncio.create_task(keep_sending(his, group))
    await hers.until(lambda: len(hers.texts(f"chat:{group}")) > 5, "some of his messages")

    await asyncio.to_thread(alice.call, here, "DELETE", f"/conversations/{group}/members/{bob.id}")

    with suppress(AssertionError):
        await busy
    await hers.send(group, "after")
    await hers.until(lambda: hers.texts(f"chat:{group}")[-1] == "after", "her own message")
    removal = next(p["offset"] for p in hers.seen[f"chat:{group}"] if p["data"]["type"] == "member.removed")
    later = [p for p in hers.seen[f"chat:{group}"] if p["offset"] > removal and p["data"]["type"] == "message.sent"]
    assert all(p["data"]["message"]["sender"] != bob.id for p in later)
    assert his.top(f"chat:{group}") <= removal
    await stop_everyone([hers, his])


async def keep_sending(follower: Follower, group: str) -> None:
    """Send until it is refused."""
    number = 0
    while True:
        await follower.send(group, f"his {(number := number + 1)}")


@pytest.mark.parametrize("forgets", ["publications", "everything"])
async def test_redis_that_forgets_what_is_published_is_made_good(
    deploy: Callable[..., Deployment], forgets: str
) -> None:
    """Redis takes publications and drops them, with or without the heartbeats: nobody is closed, nothing is late."""
    deployment = await asyncio.to_thread(deploy, webs=0)
    async with ForgetfulRedis(lambda: deployment.valkey.url) as redis:
        for _ in range(2):
            web = deployment.add_web({"REDIS_URL": redis.through(deployment.valkey.url)})
            await asyncio.to_thread(web.wait_ready)
        (alice, bob), group = await start_everyone(deployment, 2)
        waits = await send_for(2, alice, bob, group)
        connected = [follower.times_connected for follower in (alice, bob)]

        redis.forgets = lambda payload: forgets == "everything" or b"batch" in payload
        waits += await send_for(15, alice, bob, group)
        redis.forgets = lambda payload: False
        waits += await send_for(2, bob, alice, group)

        assert redis.forgotten > 0
        assert max(waits) < HEAL_SECONDS
        assert [follower.times_connected for follower in (alice, bob)] == connected
        await check_that_nothing_is_lost(deployment, [alice, bob], group)
        await stop_everyone([alice, bob])
        for web in deployment.webs:
            await asyncio.to_thread(web.stop)
