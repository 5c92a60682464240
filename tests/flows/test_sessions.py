"""The end of a session reaches every socket of its device, on whichever process, with Redis and without."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import websockets

from tests.flows.people import Person, make_people
from tests.servers import Deployment, ServerProcess


async def connect(web: ServerProcess, person: Person) -> tuple[websockets.ClientConnection, dict[str, Any]]:
    socket = await websockets.connect(web.websocket_url, ping_interval=None)
    await socket.send(json.dumps({"id": 1, "connect": {"token": person.token}}))
    return socket, json.loads(str(await socket.recv()).split("\n")[0])


async def seconds_to_close(socket: websockets.ClientConnection) -> float:
    began = time.monotonic()
    async with asyncio.timeout(15):
        with suppress(websockets.ConnectionClosed):
            while True:
                await socket.recv()
    return time.monotonic() - began


async def end_session(person: Person, web: ServerProcess) -> None:
    page = await asyncio.to_thread(person.call, web, "GET", "/sessions")
    await asyncio.to_thread(person.call, web, "DELETE", f"/sessions/{page['sessions'][0]['id']}")


@pytest.mark.parametrize(("is_frozen", "within"), [(False, 1.0), (True, 6.0)])
async def test_revoking_closes_the_sockets_on_the_other_process(
    deploy: Callable[..., Deployment], is_frozen: bool, within: float
) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    here, there = deployment.webs
    (alice,) = await asyncio.to_thread(make_people, deployment, "Alice")
    socket, _ = await connect(there, alice)
    if is_frozen:
        assert deployment.valkey.child
        deployment.valkey.child.signal(signal.SIGSTOP)

    closing = asyncio.create_task(seconds_to_close(socket))
    began = time.monotonic()
    await end_session(alice, here)
    answered = time.monotonic() - began

    assert await closing - answered < within
    assert socket.close_code == 3500
    with pytest.raises(websockets.ConnectionClosed) as refused:
        await connect(there, alice)
    assert refused.value.rcvd
    assert refused.value.rcvd.code == 3500


async def test_deleting_the_account_closes_all_its_sockets(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy, webs=2)
    here, there = deployment.webs
    (alice,) = await asyncio.to_thread(make_people, deployment, "Alice")
    sockets = [(await connect(web, alice))[0] for web in (here, there)]

    closing = [asyncio.create_task(seconds_to_close(socket)) for socket in sockets]
    await asyncio.to_thread(alice.call, here, "DELETE", "/me")

    await asyncio.gather(*closing)
    assert [socket.close_code for socket in sockets] == [3503, 3503]
