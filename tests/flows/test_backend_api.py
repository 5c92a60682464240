"""The server API, by the client library of the server whose API it has: ``cent`` from PyPI, and plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import cent
import httpx
import jwt
import pytest
from cent.exceptions import CentApiResponseError, CentTransportError, CentUnauthorizedError
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from tests.servers import Deployment, ServerProcess

KEY = "the-key-of-the-server-api-that-nobody-knows"
SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
NAMESPACES = {
    "live": {"allow_subscribe_for_client": True, "presence": True},
    "kept": {
        "allow_subscribe_for_client": True,
        "history_size": 10,
        "history_ttl": "1h",
        "force_recovery": True,
    },
}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    environment = {
        "ROOST_API_KEY": KEY,
        "ROOST_TOKEN_HMAC_SECRET": SECRET,
        "ROOST_NAMESPACES": json.dumps(NAMESPACES),
    }
    with Deployment(webs=2, environment=environment) as deployment:
        yield deployment


@pytest.fixture
def web(deployment: Deployment) -> ServerProcess:
    return deployment.webs[0]


@pytest.fixture
def api(web: ServerProcess) -> Iterator[cent.Client]:
    client = cent.Client(f"{web.url}/api", KEY)
    yield client
    client._session._session.close()


class Socket:
    """A websocket of a user, on one of the processes; it keeps what it hears."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self.heard: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self._more = asyncio.Event()
        self._task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        try:
            async for frame in self._websocket:
                for line in str(frame).split("\n"):
                    self.heard.append(json.loads(line))
                self._more.set()
        except ConnectionClosed:
            pass
        self.closed = (self._websocket.close_code or 0, self._websocket.close_reason or "")
        self._more.set()

    async def ask(self, **command: Any) -> dict[str, Any]:
        id = len(self.heard) + 1000
        await self._websocket.send(json.dumps({"id": id, **command}))
        await self.until(lambda: any(reply.get("id") == id for reply in self.heard))
        return next(reply for reply in self.heard if reply.get("id") == id)

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._more.clear()
                await self._more.wait()

    def pushes(self, kind: str, channel: str | None = None) -> list[Any]:
        found = (reply["push"] for reply in self.heard if "push" in reply)
        return [push[kind] for push in found if kind in push and channel in (None, push.get("channel"))]

    async def close(self) -> None:
        self._task.cancel()
        await self._websocket.close()


@pytest.fixture
async def connect(deployment: Deployment) -> AsyncIterator[Any]:
    """``await connect("7", 1)`` is user 7 on the second process."""
    sockets: list[Socket] = []

    async def connect(user: str, process: int = 1) -> Socket:
        socket = Socket(await open_websocket(deployment.webs[process].websocket_url))
        sockets.append(socket)
        await socket.ask(connect={"token": jwt.encode({"sub": user}, SECRET, "HS256")})
        return socket

    yield connect
    for socket in sockets:
        await socket.close()


async def test_publications_reach_clients_of_every_process(api: cent.Client, connect: Any) -> None:
    bob = await connect("8")
    for channel in ("live:a", "kept:a"):
        await bob.ask(subscribe={"channel": channel})

    live = api.publish(cent.PublishRequest(channel="live:a", data={"n": 1}, tags={"lang": "en"}))
    kept = api.publish(cent.PublishRequest(channel="kept:a", data={"n": 2}))
    skipped = api.publish(cent.PublishRequest(channel="kept:a", data={"n": 3}, skip_history=True))
    await bob.until(lambda: len(bob.pushes("pub")) == 3)

    assert (live.offset, skipped.offset) == (0, 0)
    assert kept.offset == 1
    assert kept.epoch
    assert bob.pushes("pub", "live:a") == [{"data": {"n": 1}, "tags": {"lang": "en"}}]
    assert bob.pushes("pub", "kept:a") == [{"data": {"n": 2}, "offset": 1}, {"data": {"n": 3}}]


@pytest.mark.parametrize("channel", ["kept:once", "live:once"])
async def test_a_repeated_publication_is_made_once(deployment: Deployment, connect: Any, channel: str) -> None:
    bob = await connect("8")
    await bob.ask(subscribe={"channel": channel})
    body = {"channel": channel, "data": 1, "idempotency_key": uuid4().hex}

    answers = [post(web, "publish", body).json() for web in (*deployment.webs, *deployment.webs)]
    post(deployment.webs[0], "publish", {"channel": channel, "data": "end"})
    await bob.until(lambda: bob.pushes("pub", channel) and bob.pushes("pub", channel)[-1]["data"] == "end")

    assert [pub["data"] for pub in bob.pushes("pub", channel)] == [1, "end"]
    if channel.startswith("kept"):
        assert [answer["result"] for answer in answers] == [answers[0]["result"]] * 4


def test_broadcast_and_batch(api: cent.Client) -> None:
    sent = api.broadcast(cent.BroadcastRequest(channels=["kept:b1", "kept:b2", "nowhere:a"], data={"n": 1}))
    batch = api.batch(
        cent.BatchRequest(
            requests=[
                cent.PublishRequest(channel="kept:b1", data={"n": 2}),
                cent.HistoryRequest(channel="kept:b2", limit=10),
                cent.PresenceStatsRequest(channel="live:a"),
            ]
        )
    )

    assert [answer.result.offset if answer.result else answer.error.code for answer in sent.responses] == [1, 1, 102]
    published, history, stats = batch.replies
    assert published.offset == 2
    assert [publication.data for publication in history.publications] == [{"n": 1}]
    assert stats.num_clients == 0


def test_history_and_its_removal(api: cent.Client) -> None:
    for number in range(1, 4):
        api.publish(cent.PublishRequest(channel="kept:h", data=number))

    page = api.history(cent.HistoryRequest(channel="kept:h", limit=2, reverse=True))
    since = cent.StreamPosition(offset=1, epoch=page.epoch)
    rest = api.history(cent.HistoryRequest(channel="kept:h", limit=10, since=since))
    api.history_remove(cent.HistoryRemoveRequest(channel="kept:h"))
    after = api.history(cent.HistoryRequest(channel="kept:h", limit=10))

    assert [publication.data for publication in page.publications] == [3, 2]
    assert [publication.data for publication in rest.publications] == [2, 3]
    assert (after.publications, after.offset) == ([], 3)
    assert after.epoch != page.epoch


async def test_presence_channels_and_nodes_of_all_processes(api: cent.Client, connect: Any) -> None:
    here, there = await connect("7", 0), await connect("8", 1)
    for socket in (here, there):
        await socket.ask(subscribe={"channel": "live:who"})

    presence = api.presence(cent.PresenceRequest(channel="live:who")).presence
    stats = api.presence_stats(cent.PresenceStatsRequest(channel="live:who"))
    channels = api.channels(cent.ChannelsRequest(pattern="live:w*")).channels
    nodes = api.info(cent.InfoRequest()).nodes

    assert {info.user for info in presence.values()} == {"7", "8"}
    assert (stats.num_clients, stats.num_users) == (2, 2)
    assert {name: info.num_clients for name, info in channels.items()} == {"live:who": 2}
    assert len(nodes) == 2
    assert sum(node.num_clients for node in nodes) >= 2


async def test_subscribing_and_unsubscribing_users(api: cent.Client, connect: Any) -> None:
    bob = await connect("20")
    api.publish(cent.PublishRequest(channel="kept:s", data="before"))

    api.subscribe(cent.SubscribeRequest(user="20", channel="kept:s", data={"welcome": True}))
    await bob.until(lambda: bob.pushes("subscribe", "kept:s"))
    api.publish(cent.PublishRequest(channel="kept:s", data="during"))
    await bob.until(lambda: bob.pushes("pub", "kept:s"))
    api.unsubscribe(cent.UnsubscribeRequest(user="20", channel="kept:s"))
    await bob.until(lambda: bob.pushes("unsubscribe", "kept:s"))

    (subscribed,) = bob.pushes("subscribe", "kept:s")
    assert (subscribed["offset"], subscribed["recoverable"], subscribed["data"]) == (1, True, {"welcome": True})
    assert [pub["data"] for pub in bob.pushes("pub", "kept:s")] == ["during"]
    assert bob.pushes("unsubscribe", "kept:s") == [{"code": 2000, "reason": "server unsubscribe"}]


async def test_subscribing_with_a_position_recovers(api: cent.Client, connect: Any) -> None:
    bob = await connect("21")
    first = api.publish(cent.PublishRequest(channel="kept:r", data=1))
    api.publish(cent.PublishRequest(channel="kept:r", data=2))

    since = cent.StreamPosition(offset=first.offset, epoch=first.epoch)
    api.subscribe(cent.SubscribeRequest(user="21", channel="kept:r", recover_since=since))
    await bob.until(lambda: bob.pushes("pub", "kept:r"))

    assert bob.pushes("subscribe", "kept:r")[0]["offset"] == 1
    assert [pub["data"] for pub in bob.pushes("pub", "kept:r")] == [2]


async def test_disconnecting_users_on_every_process(api: cent.Client, connect: Any) -> None:
    here, there, other = await connect("30", 0), await connect("30", 1), await connect("31", 1)

    api.disconnect(cent.DisconnectRequest(user="30", disconnect=cent.Disconnect(code=4100, reason="maintenance")))
    for socket in (here, there):
        await socket.until(lambda socket=socket: socket.closed)

    assert here.closed == there.closed == (4100, "maintenance")
    await other.ask(rpc={"method": "ping"})
    api.disconnect(cent.DisconnectRequest(user="31"))
    await other.until(lambda: other.closed)
    assert other.closed == (3503, "force disconnect")


async def test_a_refresh_that_is_over_ends_the_connection(api: cent.Client, connect: Any) -> None:
    bob = await connect("40")

    api.refresh(cent.RefreshRequest(user="40", expire_at=4_000_000_000))
    api.refresh(cent.RefreshRequest(user="40", expired=True))
    await bob.until(lambda: bob.closed)

    assert bob.closed == (3005, "connection expired")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (cent.PublishRequest(channel="nowhere:a", data=1), 102),
        (cent.PublishRequest(channel="chat:01998a3e-52b4-7c1e-9d5c-0d3e8f0a1b2c", data=1), 103),
        (cent.PublishRequest(channel="", data=1), 107),
        (cent.PublishRequest(channel="live:é", data=1), 107),
        (cent.SubscribeRequest(user="7", channel="feed:01998a3e-52b4-7c1e-9d5c-0d3e8f0a1b2c"), 103),
        (cent.HistoryRemoveRequest(channel="#7"), 103),
        (cent.HistoryRequest(channel="live:a"), 108),
        (cent.PresenceRequest(channel="kept:a"), 108),
        (cent.DisconnectRequest(user="7", disconnect=cent.Disconnect(code=1000, reason="x")), 107),
        (cent.DisconnectRequest(user="7", disconnect=cent.Disconnect(code=4000, reason="{}")), 107),
    ],
)
def test_mistakes_get_an_error_with_its_code(api: cent.Client, request_: Any, code: int) -> None:
    method = getattr(api, request_.__api_method__)

    with pytest.raises(CentApiResponseError) as caught:
        method(request_)

    assert caught.value.code == code


def test_methods_of_the_commercial_edition_are_unknown(api: cent.Client) -> None:
    with pytest.raises(CentTransportError) as caught:
        api.connections(cent.ConnectionsRequest(user="7", expression=""))

    assert caught.value.status_code == 404


def post(web: ServerProcess, method: str, body: object, key: str = KEY, **options: Any) -> httpx.Response:
    options = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(f"{web.url}/api/{method}", headers={"X-API-Key": key}, timeout=10, **options)


def test_a_wrong_key_is_refused(web: ServerProcess) -> None:
    with pytest.raises(CentUnauthorizedError):
        cent.Client(f"{web.url}/api", "wrong").publish(cent.PublishRequest(channel="live:a", data=1))
    assert post(web, "publish", {}, key="").status_code == 401
    assert httpx.post(f"{web.url}/api/info", headers={"Authorization": f"apikey {KEY}"}).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"channel": 7}', b"\xff"])
def test_what_is_no_request_is_refused(web: ServerProcess, body: bytes) -> None:
    answer = post(web, "publish", body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 107


def test_binary_data_travels_as_base64(web: ServerProcess) -> None:
    assert post(web, "publish", {"channel": "live:a", "b64data": "/wA="}).json() == {"result": {}}
    assert post(web, "publish", {"channel": "live:a", "b64data": "!"}).json()["error"]["code"] == 107


def test_a_large_batch_is_stored_in_order(web: ServerProcess) -> None:
    commands = [{"publish": {"channel": f"kept:{number % 2}", "data": number}} for number in range(100)]
    commands += [{"nothing": {}}, {"publish": {}}, {}]

    replies = post(web, "batch", {"commands": commands}).json()["replies"]

    assert [reply["publish"]["offset"] for reply in replies[:100]] == [number // 2 + 1 for number in range(100)]
    assert [reply["error"]["code"] for reply in replies[100:]] == [104, 107, 107]


def test_other_requests_on_the_same_connection_are_served(web: ServerProcess) -> None:
    with httpx.Client(base_url=web.url, headers={"X-API-Key": KEY}) as client:
        assert client.post("/api/info", json={}).status_code == 200
        assert client.get("/health/live").status_code == 200
        assert client.get("/v1/me").status_code == 401
        assert client.post("/api/info", json={}).status_code == 200
        assert client.get("/api/info").status_code == 405


def test_without_a_key_there_is_no_api() -> None:
    with Deployment(webs=1) as deployment:
        assert post(deployment.webs[0], "publish", {"channel": "live:a", "data": 1}, key="").status_code == 404
