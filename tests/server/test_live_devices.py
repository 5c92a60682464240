"""Which devices have a live socket, and when nobody can know; on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from models.ids import new_id
from server import live_devices
from server.embedded import Valkey
from server.live_devices import MARKER, LiveDevices

Start = Callable[[], LiveDevices]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("valkey")
    server = Valkey(folder, folder / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url)
    await client.flushall()
    # Redis has been listening for long.
    await client.set(MARKER, 1)
    yield client
    await client.aclose()


@pytest.fixture
async def process(valkey: Valkey, redis: Redis) -> AsyncIterator[Start]:
    """``process()`` is one web process more."""
    started: list[LiveDevices] = []

    def start() -> LiveDevices:
        devices = LiveDevices(valkey.url)
        devices._name = f"process-{len(started)}"
        devices.start()
        started.append(devices)
        return devices

    yield start
    for devices in started:
        await devices.stop()


async def until_known(devices: LiveDevices, device_id: Any, is_live: bool) -> None:
    async with asyncio.timeout(5):
        while (device_id in (await devices.which([device_id]) or ())) is not is_live:
            await asyncio.sleep(0.01)


async def test_a_socket_makes_its_device_live_until_it_closes(process: Start) -> None:
    web, worker, device = process(), process(), new_id()

    web.add(device)
    await until_known(worker, device, True)
    web.remove(device)
    await until_known(worker, device, False)


async def test_the_second_socket_keeps_a_device_live(process: Start, redis: Redis) -> None:
    web, device, other = process(), new_id(), new_id()
    web.add(device)
    web.add(device)
    await until_known(web, device, True)

    web.remove(device)
    web.add(other)
    await until_known(web, other, True)

    assert set(await web.which([device, other]) or ()) == {device, other}


async def test_who_came_back_to_another_process_stays_live(process: Start) -> None:
    old, new, device, sign = process(), process(), new_id(), new_id()
    old.add(device)
    await until_known(new, device, True)
    new.add(device)
    new.add(sign)
    await until_known(new, sign, True)

    old.remove(device)
    old.add(other := new_id())
    await until_known(new, other, True)

    assert device in (await new.which([device]) or ())


async def test_says_which_devices_have_gone_and_not_those_that_came_back_elsewhere(
    valkey: Valkey, process: Start
) -> None:
    gone: list[UUID] = []

    async def note(device_ids: Sequence[UUID]) -> None:
        gone.extend(device_ids)

    noting, elsewhere = LiveDevices(valkey.url, on_gone=note), process()
    noting.start()
    leaves, moves, stays = new_id(), new_id(), new_id()
    for device in (leaves, moves, stays):
        noting.add(device)
        await until_known(elsewhere, device, True)
    elsewhere.add(moves)
    elsewhere.add(sign := new_id())
    await until_known(noting, sign, True)

    noting.remove(moves)
    noting.remove(leaves)
    await until_known(elsewhere, leaves, False)
    await noting.stop()

    assert gone == [leaves]


async def test_keys_are_renewed_and_expire_with_their_process(
    process: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_devices, "RENEW_SECONDS", 0.05)
    web, device = process(), new_id()
    web.add(device)
    await until_known(web, device, True)
    key = live_devices._key(device)

    await redis.expire(key, 5)
    async with asyncio.timeout(5):
        while await redis.ttl(key) <= 5:
            await asyncio.sleep(0.01)

    assert await redis.ttl(key) <= live_devices.EXPIRY_SECONDS


async def test_nobody_knows_right_after_an_empty_restart(process: Start, redis: Redis) -> None:
    web, device = process(), new_id()
    await redis.flushall()

    assert await web.which([device]) is None
    web.add(device)
    async with asyncio.timeout(5):
        while await redis.get(MARKER) is None:
            await asyncio.sleep(0.01)

    assert await web.which([device]) is None


async def test_nobody_knows_without_redis(unused_tcp_port: int) -> None:
    devices = LiveDevices(f"redis://127.0.0.1:{unused_tcp_port}")

    assert await devices.which([new_id()]) is None
    await devices.stop()


async def test_many_devices_are_asked_about_at_once(process: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_devices, "SLICE", 10)
    web, devices = process(), [new_id() for _ in range(35)]
    for device in devices[::2]:
        web.add(device)
    await until_known(web, devices[34], True)

    assert set(await web.which(devices) or ()) == set(devices[::2])
