"""The official SDKs, unmodified: two people on two web processes that share only PostgreSQL and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.flows.people import make_people
from tests.flows.sdk import SdkPhone
from tests.servers import Deployment

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
@pytest.mark.parametrize(("first", "second"), [("js", "python"), ("python", "js")])
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


@pytest.mark.parametrize("sdk", ["js", "python"])
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
