"""The hint from web processes to workers; on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server import doorbell
from server.doorbell import Doorbell
from server.embedded import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Any:
    server = Valkey(tmp_path, tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def doors(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Doorbell, Doorbell]]:
    monkeypatch.setattr(doorbell, "RETRY_SECONDS", 0.05)
    web, worker = Doorbell(valkey.url), Doorbell(valkey.url)
    yield web, worker
    await web.close()
    await worker.close()


async def ring_until_heard(web: Doorbell, heard: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        while not heard.is_set():
            web.ring()
            await asyncio.sleep(0.05)


async def test_ringing_wakes_a_worker(doors: tuple[Doorbell, Doorbell]) -> None:
    web, worker = doors
    heard = asyncio.Event()
    worker.listen(heard.set)

    await ring_until_heard(web, heard)


async def test_a_worker_hears_again_after_redis_was_restarted(doors: tuple[Doorbell, Doorbell], valkey: Valkey) -> None:
    web, worker = doors
    heard = asyncio.Event()
    worker.listen(heard.set)
    await ring_until_heard(web, heard)

    await asyncio.to_thread(valkey.stop)
    web.ring()
    heard.clear()
    await asyncio.to_thread(valkey.start)

    await ring_until_heard(web, heard)


async def test_many_commits_ring_once(doors: tuple[Doorbell, Doorbell]) -> None:
    web, _ = doors

    for _ in range(100):
        web.ring()

    assert len(web._rings) == 1


async def test_ringing_without_redis_does_nothing(unused_tcp_port: int) -> None:
    web = Doorbell(f"redis://127.0.0.1:{unused_tcp_port}")

    web.ring()
    [ring] = web._rings
    await ring
    await web.close()
