"""The example of docs/extensions.md, as it stands there, in a real web process."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import connect as open_websocket

from server.children import ROOT
from tests.servers import Deployment, session

SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
NAMESPACES = {"table": {"allow_publish_for_subscriber": True, "presence": True, "allow_presence_for_subscriber": True}}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    folder: Path = session().folder / "extensions"
    (folder / "myapp").mkdir(parents=True)
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "extensions.md").read_text(), re.DOTALL)
    assert example
    (folder / "myapp" / "realtime.py").write_text(example[1])
    environment = {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "ROOST_EXTENSIONS": "myapp.realtime",
        "ROOST_TOKEN_HMAC_SECRET": SECRET,
        "ROOST_NAMESPACES": json.dumps(NAMESPACES),
    }
    with Deployment(webs=1, environment=environment) as deployment:
        yield deployment


class Client:
    """A client, one command after the other."""

    def __init__(self, websocket: Any) -> None:
        self.websocket = websocket
        self.pushes: list[dict[str, Any]] = []
        self._id = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        self._id += 1
        await self.websocket.send(json.dumps({"id": self._id, **command}))
        while True:
            reply = await self.hear()
            if reply.get("id") == self._id:
                return reply

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            reply: dict[str, Any] = json.loads(await self.websocket.recv())
        if "push" in reply:
            self.pushes.append(reply["push"])
        return reply


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[Client]:
    async with open_websocket(deployment.webs[0].websocket_url) as websocket:
        yield Client(websocket)


async def connect(client: Client, user: str = "7") -> None:
    await client.ask(connect={"token": jwt.encode({"sub": user}, SECRET, "HS256")})


async def test_a_method_of_the_apps_own(client: Client) -> None:
    await connect(client)

    done = await client.ask(rpc={"method": "table.reserve", "data": {"table": "garden", "people": 2}})
    full = await client.ask(rpc={"method": "table.reserve", "data": {"table": "garden", "people": 3}})
    wrong = await client.ask(rpc={"method": "table.reserve", "data": {"table": 7}})
    chat = await client.ask(rpc={"method": "user.me"})

    assert done["rpc"]["data"] == {"table": "garden", "for": "7", "here": 1}
    assert full["error"] == {"code": 460, "message": "table_too_small"}
    assert wrong["error"]["code"] == 400
    assert "rpc" in chat


async def test_the_app_decides_who_connects(deployment: Deployment, client: Client) -> None:
    guest = await client.ask(connect={"data": "guest"})
    async with open_websocket(deployment.webs[0].websocket_url) as websocket:
        await websocket.send(json.dumps({"id": 1, "connect": {"data": "stranger"}}))
        await websocket.wait_closed()
        stranger = websocket.close_code
    async with open_websocket(deployment.webs[0].websocket_url) as websocket:
        token = jwt.encode({"sub": "7"}, SECRET, "HS256")
        await websocket.send(json.dumps({"id": 1, "connect": {"token": token, "name": "ancient"}}))
        await websocket.wait_closed()
        ancient = (websocket.close_code, websocket.close_reason)

    assert guest["connect"]["client"]
    assert stranger == 3501
    assert ancient == (4500, "please update the app")


async def test_the_app_decides_who_subscribes_and_what_is_published(client: Client) -> None:
    await connect(client)

    unknown = await client.ask(subscribe={"channel": "table:cellar"})
    allowed = await client.ask(subscribe={"channel": "table:window"})
    there = await client.ask(presence={"channel": "table:window"})
    impolite = await client.ask(publish={"channel": "table:window", "data": "damn"})
    polite = await client.ask(publish={"channel": "table:window", "data": "hi :-)"})
    while not client.pushes:
        await client.hear()

    assert unknown["error"] == {"code": 404, "message": "no_such_table"}
    assert "subscribe" in allowed
    assert [info["chan_info"] for info in there["presence"]["presence"].values()] == [{"seat": 1}]
    assert impolite["error"] == {"code": 461, "message": "impolite"}
    assert "publish" in polite
    assert client.pushes[0]["pub"]["data"] == "hi 🙂"


def test_a_module_that_cannot_be_imported_stops_the_start() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        Deployment(webs=1, environment={"ROOST_EXTENSIONS": "nowhere.to_be_found"}).__enter__()
