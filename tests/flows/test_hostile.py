"""
Clients that mean no good against the real process, three hundred at once: what becomes of them, what they cost, and
what somebody else notices. ``tests/server/test_hostile.py`` asks the same of the socket lane alone, kind by kind.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import psutil

from tests.flows.follower import Follower
from tests.flows.people import Person, make_people
from tests.server.sockets import TEXT, Raw, flood_until_dropped, frame
from tests.servers import Deployment, ServerProcess

CROWD = 100
MAX_MEMORY = 100 << 20
MAX_CORE = 0.1
WINDOW_SECONDS = 3.0
# What a call may take while the crowd is being dealt with; two noisy cores serve everybody here.
MAX_LATENCY_SECONDS = 1.0


def ping(data: object) -> bytes:
    """A call that is answered with its own data, as a frame."""
    return frame(TEXT, json.dumps({"id": 2, "rpc": {"method": "ping", "data": data}}).encode())


# Its answers are half as much again as what a connection may have unsent and the kernels hold.
POUR = ping("x" * 60_000) * 30
# More than a burst, and another one of refusals.
FLOOD = ping("x") * 1000


class Crowd:
    """A hundred clients of each kind."""

    def __init__(self, web: ServerProcess, token: str, stack: ExitStack) -> None:
        self._web, self._token, self._stack = web, token, stack
        self._undecided = [stack.enter_context(Raw(web.port)) for _ in range(CROWD)]
        self._slow = [self._connected(receive_buffer=4096) for _ in range(CROWD)]
        self._flooding = [self._connected() for _ in range(CROWD)]

    def _connected(self, *, receive_buffer: int = 0) -> Raw:
        client = self._stack.enter_context(Raw(self._web.port, receive_buffer=receive_buffer)).shake_hands()
        client.say(json.dumps({"id": 1, "connect": {"token": self._token}}))
        _, reply = client.hear()
        assert "connect" in json.loads(reply)
        return client

    def attack(self) -> None:
        """Do what they came for, and see each of them closed or cut off."""
        for client in self._undecided:
            client.send(b"GE")
        for client in self._flooding:
            client.send(FLOOD)
        for client in self._slow:
            client.send(POUR)

        # Who reads after all is told why; the others are dropped.
        self._slow[-1].wait_taken()
        assert self._slow[-1].hear_close() == (3008, "slow")
        for client in self._flooding:
            assert client.hear_close() == (3013, "too many requests")
        flood_until_dropped([client.socket for client in self._flooding], FLOOD)
        for client in self._slow[:-1]:
            client.wait_dropped()
        for client in self._undecided:
            client.hear_end()


@asynccontextmanager
async def calling(person: Person, web: ServerProcess) -> AsyncIterator[list[float]]:
    """Somebody who calls a method ten times a second, and never has to connect again; the time that each call took."""
    follower = await Follower(person, [web]).start()
    waits: list[float] = []

    async def call() -> None:
        while True:
            for method in ("ping", "user.me"):
                began = time.monotonic()
                await follower.call(method, {})
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.1)

    task = asyncio.create_task(call())
    try:
        yield waits
        assert not task.done(), task.exception()
        assert follower.times_connected == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await follower.stop()


async def core_used(process: psutil.Process) -> float:
    """The part of a core that a process uses from now on."""
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(WINDOW_SECONDS)  # the thing measured is a rate
    return (sum(process.cpu_times()[:2]) - before) / WINDOW_SECONDS


def connections(process: psutil.Process, web: ServerProcess) -> int:
    """How many clients a web process has."""
    return sum(1 for c in process.net_connections("tcp") if c.laddr.port == web.port and c.status == "ESTABLISHED")


async def test_three_hundred_hostile_clients_cost_little_and_disturb_nobody(deploy: Callable[..., Deployment]) -> None:
    deployment = await asyncio.to_thread(deploy)
    web = deployment.webs[0]
    alice, mallory = make_people(deployment, "Alice", "Mallory")
    process = psutil.Process(web.pid)
    with ExitStack() as stack:
        async with calling(alice, web) as waits:
            memory = process.memory_info().rss
            crowd = await asyncio.to_thread(Crowd, web, mallory.token, stack)
            calls = len(waits)

            await asyncio.to_thread(crowd.attack)

            assert len(waits) > calls + 20
            assert connections(process, web) == 1
            assert await core_used(process) < MAX_CORE
            assert process.memory_info().rss - memory < MAX_MEMORY
            assert max(waits) < MAX_LATENCY_SECONDS
