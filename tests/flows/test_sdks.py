"""The official SDKs, unmodified: two people on two web processes that share only PostgreSQL and Valkey."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.flows.people import make_people
from tests.flows.sdk import SdkPhone
from tests.servers import Deployment, ServerProcess

SDKS = ["js", "js-protobuf", "python", "python-protobuf", "go", "go-protobuf", "java"]
MISSED = [f"missed {n}" for n in range(50)]


@pytest.fixture
async def start_phone() -> AsyncIterator[Callable[..., object]]:
    phones: list[SdkPhone] = []

    async def start(sdk: str) -> SdkPhone:
        phones.append(await SdkPhone.start(sdk))
        return phones[-1]

    yield start
    for phone in phones:
        await phone.stop()


@pytest.mark.parametrize("lane", ["picows", "daphne"])
@pytest.mark.parametrize(("first", "second"), [("js", "python"), ("python", "js"), ("js-protobuf", "python-protobuf")])
async def test_two_sdks_talk_and_recover_on_the_other_process(
    deploy: Callable[..., Deployment], start_phone: Callable[..., SdkPhone], lane: str, first: str, second: str
) -> None:
    deployment = deploy(webs=2, environment={"ROOST_SOCKET_LANE": lane})
    here, there = deployment.webs
    alice, bob = make_people(deployment, "Alice", "Bob")
    group = alice.make_group(here, "Tea", bob)
    channel = f"chat:{group}"
    hers, his = await start_phone(first), await start_phone(second)
    await hers.connect(here.websocket_url, alice.token)
    await his.connect(there.websocket_url, bob.token)
    await his.until(lambda events: len([e for e in events if e["event"] == "subscribed"]) == 2, "subscriptions")
    assert {e["channel"] for e in his.events if e["event"] == "subscribed"} == {channel, f"#{bob.id}"}

    await hers.rpc("message.send", {"conversation": group, "client_id": "a1", "text": "hello"})
    await his.until_texts(channel, ["hello"])
    await his.rpc("message.send", {"conversation": group, "client_id": "b1", "text": "hi yourself"})
    await hers.until_texts(channel, ["hello", "hi yourself"])

    await his.disconnect()
    for number, text in enumerate(MISSED):
        await hers.rpc("message.send", {"conversation": group, "client_id": f"m{number}", "text": text})
    await his.reconnect(here.websocket_url)

    await his.until_texts(channel, ["hello", "hi yourself", *MISSED])
    recoveries = [e for e in his.events if e["event"] == "subscribed" and e["channel"] == channel]
    assert recoveries[-1]["recovered"] is True
    offsets = [e["offset"] for e in his.publications(channel)]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


@pytest.mark.parametrize("sdk", SDKS)
async def test_feed_is_subscribed_by_the_client_and_recovers(
    deploy: Callable[..., Deployment], start_phone: Callable[..., SdkPhone], sdk: str
) -> None:
    deployment = deploy(webs=2)
    here, there = deployment.webs
    author, reader = make_people(deployment, "Author", "Reader")
    feed = str(author.call(here, "POST", "/feeds", title="News")["id"])
    channel = f"feed:{feed}"
    phone = await start_phone(sdk)
    await phone.connect(there.websocket_url, reader.token)
    await phone.do("subscribe", channel=channel)
    await phone.until(lambda events: any(e.get("channel") == channel for e in events), "subscription")

    author.send(here, feed, "first")
    await phone.until_texts(channel, ["first"])
    await phone.disconnect()
    author.send(here, feed, "second")
    await phone.reconnect(here.websocket_url)

    await phone.until_texts(channel, ["first", "second"])


# --- channels of the app's own

SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
KEY = "the-key-of-the-server-api-that-nobody-knows"
NAMESPACES = {
    "room": {
        **{f"allow_{act}_for_client": True for act in ("subscribe", "publish", "history", "presence")},
        "presence": True,
        "join_leave": True,
        "history_size": 100,
        "history_ttl": "1h",
        "force_recovery": True,
        "allowed_delta_types": ["fossil"],
        "delta_publish": True,
    },
    "closed": {},
}


def token(user: str, **claims: Any) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


@pytest.fixture(scope="module")
def channels_deployment() -> Iterator[Deployment]:
    environment = {
        "ROOST_TOKEN_HMAC_SECRET": SECRET,
        "ROOST_API_KEY": KEY,
        "ROOST_NAMESPACES": json.dumps(NAMESPACES),
    }
    with Deployment(webs=2, environment=environment) as deployment:
        yield deployment


@pytest.mark.parametrize("sdk", [*SDKS, "js-http-stream", "js-protobuf-http-stream"])
async def test_channels_of_the_apps_own(
    channels_deployment: Deployment, start_phone: Callable[..., SdkPhone], sdk: str
) -> None:
    here, there = channels_deployment.webs
    room = f"room:{sdk}"
    alice, bob = await start_phone(sdk), await start_phone("js")
    await alice.connect(here.websocket_url, token("alice"))
    await bob.connect(there.websocket_url, token("bob"))
    await alice.subscribe(room, joinLeave=True, delta="fossil")

    await bob.subscribe(room)
    await alice.until(lambda _: {e["user"] for e in alice.heard("join", room)} == {"alice", "bob"}, "joins")
    for number in range(3):
        assert await bob.ask("publish", channel=room, data={"number": number, "same": "text " * 40}) is None
    await alice.until(lambda _: len(alice.heard("publication", room)) == 3, "publications")

    presence = await alice.ask("presence", channel=room)
    stats = await alice.ask("presence_stats", channel=room)
    history = await alice.ask("history", channel=room, options={"limit": 2, "reverse": True})
    await bob.do("unsubscribe", channel=room)
    await alice.until(lambda _: [e["user"] for e in alice.heard("leave", room)] == ["bob"], "leave")
    denied = await alice.ask("publish", channel="closed:a", data=1)
    unknown = await alice.ask("publish", channel="nowhere:a", data=1)

    assert [e["data"]["number"] for e in alice.heard("publication", room)] == [0, 1, 2]
    assert sorted(info["user"] for info in presence.values()) == ["alice", "bob"]
    assert (stats["numClients"], stats["numUsers"]) == (2, 2)
    assert [p["data"]["number"] for p in history["publications"]] == [2, 1]
    assert (denied, unknown) == (103, 102)


@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscription_token_opens_a_closed_channel(
    channels_deployment: Deployment, start_phone: Callable[..., SdkPhone], sdk: str
) -> None:
    web = channels_deployment.webs[0]
    phone, channel = await start_phone(sdk), f"closed:{sdk}"
    await phone.connect(web.websocket_url, token("alice"))

    await phone.subscribe(channel, token=token("alice", channel=channel, exp=int(time.time()) + 600))
    post(web, "publish", {"channel": channel, "data": {"hello": 1}})
    await phone.until(lambda _: phone.heard("publication", channel), "publication")

    assert phone.heard("publication", channel)[0]["data"] == {"hello": 1}


@pytest.mark.parametrize("sdk", SDKS)
async def test_server_side_subscriptions_and_what_ends_them(
    channels_deployment: Deployment, start_phone: Callable[..., SdkPhone], sdk: str
) -> None:
    web = channels_deployment.webs[0]
    user, channel = f"user-{sdk}", f"room:server-{sdk}"
    phone = await start_phone(sdk)
    await phone.connect(web.websocket_url, token(user, channels=[channel]))
    await phone.until(lambda _: phone.heard("subscribed", channel), "subscription by the token")

    post(web, "publish", {"channel": channel, "data": 7})
    await phone.until(lambda _: phone.heard("publication", channel), "publication")
    post(web, "subscribe", {"user": user, "channel": "room:more"})
    await phone.until(lambda _: phone.heard("subscribed", "room:more"), "subscription by the backend")
    post(web, "unsubscribe", {"user": user, "channel": "room:more"})
    await phone.until(lambda _: phone.heard("unsubscribed", "room:more"), "its end")
    post(web, "disconnect", {"user": user, "disconnect": {"code": 4200, "reason": "come back"}})
    await phone.until(lambda _: phone.count("connected") == 2, "reconnection")
    post(web, "disconnect", {"user": user, "disconnect": {"code": 4900, "reason": "stay away"}})
    await phone.until(lambda _: phone.count("disconnected") == 1, "disconnect for good")

    (last,) = [e for e in phone.events if e["event"] == "disconnected"]
    assert (last["code"], last["reason"]) == (4900, "stay away")


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_invalid_token_is_told_for_good(
    channels_deployment: Deployment, start_phone: Callable[..., SdkPhone], sdk: str
) -> None:
    phone = await start_phone(sdk)

    await phone.do("connect", url=channels_deployment.webs[0].websocket_url, token="nonsense")
    await phone.until(lambda _: phone.count("disconnected") == 1, "disconnect")

    assert [e["code"] for e in phone.events if e["event"] == "disconnected"] == [3500]


def post(web: ServerProcess, method: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{web.url}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10)
    assert "result" in answer.json(), answer.text
