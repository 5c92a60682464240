"""The protocol without websockets, byte by byte: the way out of one process, the way in by another."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest

from tests.servers import Deployment, ServerProcess

SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
ORIGIN = "https://app.example.com"
NAMESPACES = {"room": {"allow_subscribe_for_client": True, "allow_publish_for_client": True}}
ENVIRONMENT = {
    "ROOST_TOKEN_HMAC_SECRET": SECRET,
    "ROOST_NAMESPACES": json.dumps(NAMESPACES),
    "ROOST_ALLOWED_ORIGINS": ORIGIN,
    "ROOST_PING_SECONDS": "1",
}
SUBSCRIBE = {"id": 2, "subscribe": {"channel": "room:a"}}


def connect_command(user: str = "7") -> dict[str, Any]:
    return {"id": 1, "connect": {"token": jwt.encode({"sub": user}, SECRET, "HS256")}}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with Deployment(webs=2, environment=ENVIRONMENT) as deployment:
        yield deployment


class Stream:
    """An endless response, read line by line; a ping is an empty object."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def line(self) -> str:
        async with asyncio.timeout(10):
            return await anext(self._lines)

    async def reply(self) -> dict[str, Any]:
        """The next that is no ping."""
        while True:
            line = (await self.line()).removeprefix("data: ")
            if line and line != "{}":
                found: dict[str, Any] = json.loads(line)
                return found


@asynccontextmanager
async def http_stream(web: ServerProcess, *commands: dict[str, Any], **headers: str) -> AsyncIterator[Stream]:
    body = "\n".join(map(json.dumps, commands))
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("POST", f"{web.url}/connection/http_stream", content=body, headers=headers) as response,
    ):
        yield Stream(response)


def say(web: ServerProcess, about: dict[str, Any], *commands: dict[str, Any]) -> int:
    body = {"node": about["node"], "session": about["session"], "data": "\n".join(map(json.dumps, commands))}
    return httpx.post(f"{web.url}/emulation", json=body, timeout=10).status_code


async def test_commands_reach_the_stream_by_any_process(deployment: Deployment) -> None:
    here, there = deployment.webs
    async with http_stream(here, connect_command(), SUBSCRIBE) as stream:
        about = (await stream.reply())["connect"]
        subscribed = await stream.reply()

        statuses = [
            await asyncio.to_thread(say, web, about, {"id": id, "publish": {"channel": "room:a", "data": id}})
            for id, web in ((3, here), (4, there))
        ]
        heard = [await stream.reply() for _ in range(4)]

        assert stream.response.headers["x-accel-buffering"] == "no"
        assert stream.response.headers["cache-control"].startswith("no-cache")
        assert (about["ping"], about["pong"]) == (1, True)
        assert "subscribe" in subscribed
        assert statuses == [204, 204]
        assert {reply["id"] for reply in heard if "id" in reply} == {3, 4}
        assert [reply["push"]["pub"]["data"] for reply in heard if "push" in reply] == [3, 4]


async def test_server_sent_events(deployment: Deployment) -> None:
    web = deployment.webs[0]
    first = quote(f"{json.dumps(connect_command())}\n{json.dumps(SUBSCRIBE)}")
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("GET", f"{web.url}/connection/sse?cf_connect={first}") as response,
    ):
        stream = Stream(response)
        assert response.headers["content-type"].startswith("text/event-stream")
        line = await stream.line()
        assert line.startswith("data: {")
        assert "connect" in json.loads(line.removeprefix("data: "))
        assert "subscribe" in await stream.reply()


async def test_pings_come_and_a_missing_pong_ends_it_with_a_push(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(webs=1, environment={**ENVIRONMENT, "ROOST_PONG_SECONDS": "1"})
    async with http_stream(deployment.webs[0], connect_command()) as stream:
        await stream.reply()
        assert await stream.line() == "{}"

        ended = await stream.reply()

        assert ended == {"push": {"disconnect": {"code": 3012, "reason": "no pong", "reconnect": True}}}
        with pytest.raises(StopAsyncIteration):
            await stream.line()


async def test_an_invalid_token_is_told_by_a_push(deployment: Deployment) -> None:
    command = {"id": 1, "connect": {"token": "nonsense"}}

    async with http_stream(deployment.webs[0], command) as stream:
        assert await stream.reply() == {"push": {"disconnect": {"code": 3500, "reason": "invalid token"}}}


async def test_a_process_that_stops_sends_its_clients_away(deploy: Callable[..., Deployment]) -> None:
    web = deploy(webs=1, environment=ENVIRONMENT).webs[0]
    async with http_stream(web, connect_command()) as stream:
        await stream.reply()

        web.signal(signal.SIGTERM)

        assert (await stream.reply())["push"]["disconnect"]["code"] == 3001
    assert await asyncio.to_thread(web.wait) == 0


async def test_a_process_that_is_full_says_so(deploy: Callable[..., Deployment]) -> None:
    web = deploy(webs=1, environment={**ENVIRONMENT, "ROOST_MAX_CONNECTIONS": "1"}).webs[0]
    async with http_stream(web, connect_command()) as stream:
        await stream.reply()
        async with http_stream(web, connect_command()) as second:
            assert second.response.status_code == 503


async def test_what_is_for_nobody(deployment: Deployment) -> None:
    web = deployment.webs[0]
    async with http_stream(web, connect_command()) as stream:
        about = (await stream.reply())["connect"]
        other = {**about, "session": "wrong"}
        nowhere = {**about, "node": "wrong"}

        assert await asyncio.to_thread(say, web, other, {"id": 2, "rpc": {"method": "ping"}}) == 500
        assert await asyncio.to_thread(say, web, nowhere, {"id": 2, "rpc": {"method": "ping"}}) == 404


def test_requests_that_are_none(deployment: Deployment) -> None:
    url = deployment.webs[0].url

    assert httpx.post(f"{url}/emulation", content=b"{").status_code == 400
    assert httpx.post(f"{url}/emulation", content=b"x" * 70_000).status_code == 413
    assert httpx.get(f"{url}/connection/sse").status_code == 400
    assert httpx.get(f"{url}/connection/http_stream").status_code == 400


def test_pages_of_other_origins_are_kept_out(deployment: Deployment) -> None:
    address = f"{deployment.webs[0].url}/connection/http_stream"

    asked = httpx.options(address, headers={"Origin": ORIGIN})
    foreign = httpx.post(address, content=b"{}", headers={"Origin": "https://elsewhere.example.org"})

    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert foreign.status_code == 403
