"""Channels of the app's own: rights, presence, history, recovery, filters, deltas and tokens, as clients meet them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
from pytest_django.fixtures import Settings

from consumers.engine import Engine
from consumers.fossil import apply_patch
from consumers.protocol.codes import Disconnect
from consumers.protocol.json import JSON
from consumers.protocol.protobuf import PROTOBUF
from models import channels, threads
from models.drafts import PublicationDraft
from models.stream import Publication
from models.user import User

from .phone import Phone, make_engine
from .wire import until

SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
ALL = {f"allow_{act}_for_{who}": True for act in ("subscribe", "publish", "history", "presence") for who in ("client",)}
KEPT = {"history_size": 100, "history_ttl": "1h"}
NAMESPACES = {
    "": {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True},
    "open": {
        **{name: True for name in ALL if "history" not in name},
        **{"presence": True, "join_leave": True, "force_push_join_leave": True},
        **{f"allow_{act}_for_anonymous": True for act in ("subscribe", "publish", "presence")},
        "allow_tags_filter": True,
    },
    "quiet": {"allow_subscribe_for_client": True, "presence": True, "join_leave": True},
    "kept": {
        **{name: True for name in ALL if "presence" not in name},
        **KEPT,
        "force_recovery": True,
        "allowed_delta_types": ["fossil"],
        "delta_publish": True,
        "allow_tags_filter": True,
    },
    "short": {**{name: True for name in ALL if "presence" not in name}, "history_size": 3, "history_ttl": "1h"},
    "asks": {"allow_subscribe_for_client": True, **KEPT, "allow_recovery": True, "allow_positioning": True},
    "cache": {**{name: True for name in ALL if "presence" not in name}, **KEPT, "force_recovery": True}
    | {"force_recovery_mode": "cache"},
    "token": {"channel_regex": "^token:[a-z]+(#.*)?$", "allow_user_limited_channels": True},
}


@pytest.fixture(autouse=True)
def _backend(settings: Settings) -> None:
    """The app's backend signs its tokens with a secret."""
    settings.ROOST = settings.ROOST.model_copy(update={"token_hmac_secret": SECRET})


@pytest.fixture
async def engine(_backend: None, transactional_db: None) -> AsyncIterator[Engine]:
    engine = make_engine(json.dumps(NAMESPACES))
    await engine.start()
    yield engine
    await engine.stop()


def token(user: str | None = "7", **claims: Any) -> str:
    return jwt.encode({**({"sub": user} if user is not None else {}), **claims}, SECRET, "HS256")


@pytest.fixture
async def connect(engine: Engine) -> Callable[..., Any]:
    """``await connect("7")`` is the connected phone of a user of the backend."""

    async def connect(user: str | None = "7", *, codec: Any = JSON, **claims: Any) -> Phone:
        phone = Phone(engine, token(user, **claims), codec)
        if codec is JSON:
            phone.subs = await phone.connect()
        return phone

    return connect


async def publish(phone: Phone, channel: str, data: object) -> dict[str, Any]:
    return await phone.ask(publish={"channel": channel, "data": data})


async def publish_with_tags(engine: Engine, channel: str, *contents: tuple[object, dict[str, str]]) -> None:
    for data, tags in contents:
        draft = PublicationDraft(channel=channel, data=json.dumps(data).encode(), tags=tags)
        await engine.writer.publish(draft)


def pubs(phone: Phone, channel: str) -> list[dict[str, Any]]:
    return [push["pub"] for push in phone.wire.pushes if push.get("channel") == channel and "pub" in push]


def data(phone: Phone, channel: str) -> list[object]:
    return [pub["data"] for pub in pubs(phone, channel)]


def presence(phone: Phone, channel: str, kind: str) -> list[str]:
    """Whom it heard coming (``join``) or going (``leave``)."""
    found = [push[kind]["info"] for push in phone.wire.pushes if push.get("channel") == channel and kind in push]
    return [info["user"] for info in found]


# --- without history


async def test_a_channel_without_history_touches_no_database(connect: Any) -> None:
    alice, bob = await connect("7"), await connect("8")

    reply = await bob.subscribe("open:a")
    await publish(alice, "open:a", {"text": " as it  came "})
    await until(lambda: pubs(bob, "open:a"), "publication")

    assert reply["subscribe"] == {}
    (pub,) = pubs(bob, "open:a")
    assert pub["data"] == {"text": " as it  came "}
    assert "offset" not in pub
    assert pub["info"] == {"user": "7", "client": alice.connection.client}
    assert not await threads.run(Publication.objects.filter(stream__channel="open:a").exists)


async def test_publishers_hear_themselves(connect: Any) -> None:
    alice = await connect()
    await alice.subscribe("lobby")

    await publish(alice, "lobby", 5)
    await until(lambda: pubs(alice, "lobby"), "own publication")

    assert data(alice, "lobby") == [5]


async def test_what_is_not_permitted_is_103_and_what_does_not_exist_102(connect: Any) -> None:
    alice, nobody = await connect("7"), await connect(None)

    for phone, code, command in (
        (alice, 102, {"subscribe": {"channel": "nowhere:a"}}),
        (alice, 102, {"publish": {"channel": "nowhere:a", "data": 1}}),
        (alice, 102, {"presence": {"channel": "nowhere:a"}}),
        (alice, 103, {"publish": {"channel": "lobby", "data": 1}}),
        (alice, 103, {"publish": {"channel": "quiet:a", "data": 1}}),
        (alice, 103, {"presence": {"channel": "quiet:a"}}),
        (alice, 108, {"presence": {"channel": "kept:a"}}),
        (alice, 108, {"history": {"channel": "open:a"}}),
        (alice, 107, {"publish": {"channel": "open:a"}}),
        (alice, 107, {"subscribe": {"channel": "token:UPPER"}}),
        (alice, 107, {"subscribe": {"channel": "open:é"}}),
        (alice, 107, {"subscribe": {"channel": "open:" + "a" * 255}}),
        (alice, 107, {"subscribe": {"channel": "quiet:a", "tf": {"key": "a", "cmp": "ex"}}}),
        (alice, 107, {"subscribe": {"channel": "open:a", "tf": {"op": "xor"}}}),
        (alice, 107, {"subscribe": {"channel": "open:a", "type": 1}}),
        (alice, 103, {"subscribe": {"channel": "token:a"}}),
        (nobody, 103, {"subscribe": {"channel": "quiet:a"}}),
        (nobody, 101, {"rpc": {"method": "user.me"}}),
        (nobody, 104, {"rpc": {"method": "ping"}}),
    ):
        reply = await phone.ask(**command)
        assert reply.get("error", {}).get("code", 104) == code, (command, reply)


async def test_user_limited_channels(connect: Any) -> None:
    seven, eight = await connect("7"), await connect("8")

    assert "subscribe" in await seven.subscribe("token:a#7,9")
    assert (await eight.subscribe("token:a#7,9"))["error"]["code"] == 103


async def test_anonymous_clients_have_an_empty_name(connect: Any) -> None:
    nobody = await connect(None)

    await nobody.subscribe("open:a")
    await publish(nobody, "open:a", 1)
    await until(lambda: pubs(nobody, "open:a"), "publication")

    assert pubs(nobody, "open:a")[0]["info"]["user"] == ""
    assert nobody.subs == {}


# --- presence


async def test_presence_is_there_with_the_reply_and_gone_with_the_next(connect: Any) -> None:
    alice, bob = await connect("7", info={"name": "Alice"}), await connect("8")
    await alice.subscribe("open:a")

    there = (await bob.ask(presence={"channel": "open:a"}))["presence"]["presence"]
    stats = (await bob.ask(presence_stats={"channel": "open:a"}))["presence_stats"]
    await alice.ask(unsubscribe={"channel": "open:a"})
    after = (await bob.ask(presence={"channel": "open:a"}))["presence"]["presence"]

    client = alice.connection.client
    assert there == {client: {"user": "7", "client": client, "conn_info": {"name": "Alice"}}}
    assert stats == {"num_clients": 1, "num_users": 1}
    assert after == {}


async def test_presence_is_shared_by_processes_and_ends_with_the_connection(engine: Engine, connect: Any) -> None:
    other = make_engine(json.dumps(NAMESPACES))
    await other.start()
    try:
        bob = Phone(other, token("8"))
        await bob.connect()
        alice = await connect("7")
        await alice.subscribe("open:a")

        there = (await bob.ask(presence={"channel": "open:a"}))["presence"]["presence"]
        alice.drop()
        while (await bob.ask(presence={"channel": "open:a"}))["presence"]["presence"]:
            await asyncio.sleep(0.01)

        assert [info["user"] for info in there.values()] == ["7"]
    finally:
        await other.stop()


async def test_who_comes_and_goes_is_told_to_those_who_watch(connect: Any) -> None:
    alice, bob = await connect("7"), await connect("8")
    await alice.subscribe("open:a")
    await until(lambda: presence(alice, "open:a", "join"), "own join")

    await bob.subscribe("open:a")
    await until(lambda: presence(bob, "open:a", "join"), "own join")
    await bob.ask(unsubscribe={"channel": "open:a"})
    await until(lambda: presence(alice, "open:a", "leave"), "leave")

    assert presence(alice, "open:a", "join") == ["7", "8"]
    assert presence(alice, "open:a", "leave") == ["8"]
    assert presence(bob, "open:a", "join") == ["8"]
    assert presence(bob, "open:a", "leave") == []


async def test_a_subscribe_reply_precedes_ones_own_join(connect: Any) -> None:
    alice = await connect("7")

    await alice.subscribe("open:a")
    await until(lambda: presence(alice, "open:a", "join"), "own join")

    kinds = [next(iter(reply.get("push", reply))) for reply in alice.wire.replies]
    assert "subscribe" in list(alice.wire.replies[1])
    assert kinds[-1] == "channel"


async def test_joins_are_heard_by_those_who_ask_where_nobody_is_forced(connect: Any) -> None:
    alice, bob, carol = await connect("7"), await connect("8"), await connect("9")
    await alice.subscribe("quiet:a", join_leave=True)
    await bob.subscribe("quiet:a")

    await carol.subscribe("quiet:a")
    await until(lambda: "9" in presence(alice, "quiet:a", "join"), "join")
    carol.drop()
    await until(lambda: presence(alice, "quiet:a", "leave"), "leave")

    assert presence(alice, "quiet:a", "leave") == ["9"]
    assert presence(bob, "quiet:a", "join") == presence(bob, "quiet:a", "leave") == []


# --- history and recovery


async def test_history_in_pages(connect: Any) -> None:
    alice = await connect()
    for number in range(1, 6):
        await publish(alice, "kept:a", number)

    async def page(**fields: Any) -> tuple[list[int], int]:
        reply = (await alice.ask(history={"channel": "kept:a", **fields}))["history"]
        return [pub["offset"] for pub in reply["publications"]], reply["offset"]

    assert await page() == ([], 5)
    assert await page(limit=2) == ([1, 2], 5)
    assert await page(limit=-1) == ([1, 2, 3, 4, 5], 5)
    assert await page(limit=2, reverse=True) == ([5, 4], 5)
    assert await page(limit=2, since={"offset": 3}) == ([4, 5], 5)
    assert await page(limit=9, since={"offset": 3}, reverse=True) == ([2, 1], 5)
    bad_epoch = await alice.ask(history={"channel": "kept:a", "since": {"offset": 1, "epoch": "other"}})
    no_sense = await alice.ask(history={"channel": "kept:a", "since": {"offset": 0}, "reverse": True, "limit": 1})
    assert (bad_epoch["error"]["code"], no_sense["error"]["code"]) == (112, 107)


async def test_history_ends_with_its_size(connect: Any) -> None:
    alice = await connect()
    for number in range(1, 8):
        await publish(alice, "short:a", number)

    reply = (await alice.ask(history={"channel": "short:a", "limit": -1}))["history"]

    assert [pub["data"] for pub in reply["publications"]] == [5, 6, 7]
    assert reply["offset"] == 7


async def test_reading_a_position_makes_an_epoch_that_stays(connect: Any) -> None:
    alice = await connect()

    first = (await alice.ask(history={"channel": "kept:new"}))["history"]
    second = (await alice.subscribe("kept:new"))["subscribe"]

    assert (first["offset"], first["publications"]) == (0, [])
    assert first["epoch"] == second["epoch"] != ""


async def test_recovery_after_a_drop(connect: Any) -> None:
    alice, bob = await connect("7"), await connect("8")
    begun = (await bob.subscribe("kept:a"))["subscribe"]
    await publish(alice, "kept:a", 1)
    await until(lambda: pubs(bob, "kept:a"), "publication")
    bob.drop()
    for number in (2, 3):
        await publish(alice, "kept:a", number)

    again = await connect("8")
    reply = (await again.subscribe("kept:a", recover=True, offset=1, epoch=begun["epoch"]))["subscribe"]
    await publish(alice, "kept:a", 4)
    await until(lambda: pubs(again, "kept:a"), "publication")

    assert begun == {"recoverable": True, "positioned": True, "epoch": begun["epoch"]}
    assert (reply["recovered"], reply["was_recovering"], reply["offset"]) == (True, True, 1)
    assert [(pub["offset"], pub["data"]) for pub in reply["publications"]] == [(2, 2), (3, 3)]
    assert [(pub["offset"], pub["data"]) for pub in pubs(again, "kept:a")] == [(4, 4)]


@pytest.mark.parametrize(("offset", "epoch"), [(9, None), (1, "other"), (1, "_")])
async def test_what_cannot_be_recovered_is_said(connect: Any, offset: int, epoch: str | None) -> None:
    alice = await connect()
    await publish(alice, "kept:a", 1)
    await publish(alice, "kept:a", 2)
    true_epoch = (await alice.ask(history={"channel": "kept:a"}))["history"]["epoch"]
    asked = {"recover": True, "offset": offset, "epoch": true_epoch if epoch is None else epoch}

    refused = await alice.subscribe("kept:a", **asked, flag=2)
    reply = (await alice.subscribe("kept:a", **asked))["subscribe"]

    assert refused["error"]["code"] == 112
    assert reply["was_recovering"] is True
    assert "recovered" not in reply
    assert "publications" not in reply
    assert reply["offset"] == 2


async def test_positions_are_for_those_who_ask_where_nobody_is_forced(connect: Any) -> None:
    alice, bob, carol = await connect("7"), await connect("8"), await connect("9")

    plain = (await alice.subscribe("asks:a"))["subscribe"]
    positioned = (await bob.subscribe("asks:a", positioned=True))["subscribe"]
    recoverable = (await carol.subscribe("asks:a", recoverable=True))["subscribe"]

    assert plain == {}
    assert (positioned.get("positioned"), positioned.get("recoverable")) == (True, None)
    assert (recoverable.get("positioned"), recoverable.get("recoverable")) == (True, True)


async def test_a_cache_recovers_the_newest_only(connect: Any) -> None:
    alice = await connect()
    for number in range(1, 4):
        await publish(alice, "cache:a", number)
    epoch = (await alice.ask(history={"channel": "cache:a"}))["history"]["epoch"]

    async def recover(offset: int) -> tuple[bool, list[int], int]:
        phone = await connect()
        reply = await phone.subscribe("cache:a", recover=True, offset=offset, epoch=epoch)
        result = reply["subscribe"]
        found = [pub["data"] for pub in result.get("publications", [])]
        return result.get("recovered", False), found, result["offset"]

    assert await recover(0) == (True, [3], 3)
    assert await recover(1) == (True, [3], 3)
    assert await recover(3) == (True, [], 3)
    await threads.run(Publication.objects.all().delete)
    assert await recover(1) == (False, [], 3)
    assert await recover(3) == (True, [], 3)


# --- filters and deltas


async def test_a_filter_keeps_back_what_is_not_wanted_live_and_recovered(engine: Engine, connect: Any) -> None:
    bob = await connect()
    wanted = {"key": "lang", "cmp": "eq", "val": "en"}
    begun = (await bob.subscribe("kept:a", tf=wanted))["subscribe"]

    await publish_with_tags(engine, "kept:a", (1, {"lang": "en"}), (2, {"lang": "de"}), (3, {}), (4, {"lang": "en"}))
    await until(lambda: len(pubs(bob, "kept:a")) == 2, "publications")
    again = await connect()
    reply = await again.subscribe("kept:a", tf=wanted, recover=True, offset=1, epoch=begun["epoch"])
    await publish_with_tags(engine, "kept:a", (5, {"lang": "de"}), (6, {"lang": "en"}))
    await until(lambda: pubs(again, "kept:a"), "publication")

    assert [(pub["data"], pub["offset"], pub["tags"]) for pub in pubs(bob, "kept:a")][:2] == [
        (1, 1, {"lang": "en"}),
        (4, 4, {"lang": "en"}),
    ]
    assert [pub["data"] for pub in reply["subscribe"]["publications"]] == [4]
    assert data(again, "kept:a") == [6]


def story(number: int) -> dict[str, Any]:
    return {"number": number, "text": "the same long text for every publication of this channel " * 3}


async def test_deltas_on_json(connect: Any) -> None:
    alice, bob, carol = await connect("7"), await connect("8"), await connect("9")
    reply = (await bob.subscribe("kept:a", delta="fossil"))["subscribe"]
    await carol.subscribe("kept:a")

    for number in range(3):
        await publish(alice, "kept:a", story(number))
    await until(lambda: len(pubs(bob, "kept:a")) == len(pubs(carol, "kept:a")) == 3, "publications")

    assert reply["delta"] is True
    assert [pub.get("delta", False) for pub in pubs(bob, "kept:a")] == [False, True, True]
    base = b""
    for number, pub in enumerate(pubs(bob, "kept:a")):
        base = apply_patch(base, pub["data"].encode()) if pub.get("delta") else pub["data"].encode()
        assert json.loads(base) == story(number)
    assert data(carol, "kept:a") == [story(number) for number in range(3)]


async def test_after_a_recovery_deltas_go_on_from_what_was_recovered(connect: Any) -> None:
    alice, bob = await connect("7"), await connect("8")
    await publish(alice, "kept:a", story(0))
    await publish(alice, "kept:a", story(1))

    reply = (await bob.subscribe("kept:a", delta="fossil", recover=True))["subscribe"]
    await publish(alice, "kept:a", story(2))
    await until(lambda: pubs(bob, "kept:a"), "publication")

    assert [json.loads(pub["data"]) for pub in reply["publications"]] == [story(0), story(1)]
    (pub,) = pubs(bob, "kept:a")
    base = reply["publications"][1]["data"].encode()
    assert json.loads(apply_patch(base, pub["data"].encode())) == story(2)


async def test_an_unknown_delta_is_passed_over(connect: Any) -> None:
    alice = await connect()

    assert "delta" not in (await alice.subscribe("kept:a", delta="xdelta"))["subscribe"]
    assert "delta" not in (await alice.subscribe("open:a", delta="fossil"))["subscribe"]


# --- encodings


async def test_what_is_not_json_ends_a_json_connection_and_reaches_the_others(engine: Engine, connect: Any) -> None:
    alice, bob = await connect("7"), await connect("8", codec=PROTOBUF)
    await alice.subscribe("kept:a")
    say(bob, 1, "connect", token=token("8"))
    await until(lambda: bob.wire.frames, "connect reply")
    say(bob, 2, "subscribe", channel="kept:a")
    await until(lambda: len(bob.wire.frames) == 2, "subscribe reply")

    await engine.writer.publish(PublicationDraft(channel="kept:a", data=b"\xff\x00"))

    await alice.until_closed(Disconnect.INAPPROPRIATE_PROTOCOL)
    await until(lambda: len(bob.wire.frames) == 3, "publication")
    assert b"\xff\x00" in bob.wire.frames[2]
    late = await connect("9")
    late.say(json.dumps({"id": 9, "subscribe": {"channel": "kept:a", "recover": True}}).encode())
    await late.until_closed(Disconnect.INAPPROPRIATE_PROTOCOL)


def say(phone: Phone, id: int, member: str, **fields: Any) -> None:
    """Say one command in Protobuf."""
    from consumers.protocol.client_pb2 import Command

    command = Command(id=id)
    getattr(command, member).SetInParent()
    for name, value in fields.items():
        setattr(getattr(command, member), name, value)
    message = command.SerializeToString()
    size = [len(message)] if len(message) < 128 else [len(message) & 127 | 128, len(message) >> 7]
    phone.connection.receive(bytes(size) + message, False)


async def test_line_breaks_within_json_do_not_end_the_line(engine: Engine, connect: Any) -> None:
    alice = await connect()
    await alice.subscribe("kept:a")

    await engine.writer.publish(PublicationDraft(channel="kept:a", data=b'{\n "a": "b c"\n}'))
    await until(lambda: pubs(alice, "kept:a"), "publication")

    assert data(alice, "kept:a") == [{"a": "b c"}]


# --- tokens of the app's backend


async def test_a_user_of_the_backend_is_a_person_of_the_chat(engine: Engine) -> None:
    phone, again = Phone(engine, token("customer-42")), Phone(engine, token("customer-42"))

    subs = await phone.connect()
    await again.connect()
    me = await phone.ask(rpc={"method": "user.me"})

    user = await threads.run(lambda: User.objects.get(external_id="customer-42"))
    assert me["rpc"]["data"]["id"] == str(user.id)
    assert list(subs) == [channels.personal(user.id)]


async def test_a_device_of_the_backends_users_is_known_by_its_installation(engine: Engine) -> None:
    phone = Phone(engine, token("42"))
    about = {"device": {"install_id": "abc", "platform": "ios"}}
    result = (await phone.ask(connect={"token": token("42"), "data": about}))["connect"]

    registered = await phone.ask(rpc={"method": "device.register", "data": {"target": "t"}})

    assert registered["rpc"]["data"]["id"] == result["data"]["device"]
    assert registered["rpc"]["data"]["platform"] == "ios"


async def test_whoever_may_not_be_here_any_more_is_refused(engine: Engine) -> None:
    phone = Phone(engine, token("42"))
    await phone.connect()
    await threads.run(lambda: User.objects.update(is_active=False))

    again = Phone(engine, token("42"))
    again.say(json.dumps({"id": 1, "connect": {"token": token("42")}}).encode())

    await again.until_closed(Disconnect.INVALID_TOKEN)


@pytest.mark.parametrize(
    ("bad", "close", "error"),
    [
        (lambda: "no token", 3500, None),
        (lambda: "a.b.c", 3500, None),
        (lambda: jwt.encode({"sub": "7"}, "another secret that is long enough to sign", "HS256"), 3500, None),
        (lambda: jwt.encode({"sub": "7"}, None, "none"), 3500, None),
        (lambda: token("7", channel="open:a"), 3500, None),
        (lambda: jwt.encode({"sub": "7", "subs": [1]}, SECRET), 3500, None),
        (lambda: token("7", subs={"open:a": {"b64info": "!"}}), 3500, None),
        (lambda: token("7", exp=int(time.time()) - 5), None, 109),
        (lambda: token("7", nbf=int(time.time()) + 60), None, 109),
        (lambda: token("7" * 300), 3500, None),
        (lambda: "", 3501, None),
    ],
)
async def test_bad_connection_tokens(engine: Engine, bad: Any, close: int | None, error: int | None) -> None:
    phone = Phone(engine, "")

    phone.say(json.dumps({"id": 1, "connect": {"token": bad()}}).encode())
    await until(lambda: phone.wire.closed or phone.wire.replies, "answer")

    assert (phone.wire.closed or (None,))[0] == close
    if error:
        assert phone.wire.replies[0]["error"]["code"] == error


async def test_a_token_without_expiry_makes_a_connection_without(engine: Engine) -> None:
    async def result(**claims: Any) -> dict[str, Any]:
        phone = Phone(engine, "")
        phone.say(json.dumps({"id": 1, "connect": {"token": token("7", **claims)}}).encode())
        await until(lambda: phone.wire.replies, "connect reply")
        return dict(phone.wire.replies[0]["connect"])

    now = int(time.time())
    assert "expires" not in await result()
    assert "expires" not in await result(exp=now + 60, expire_at=0)
    assert 50 <= (await result(exp=now + 60))["ttl"] <= 60
    assert 290 <= (await result(exp=now + 60, expire_at=now + 300))["ttl"] <= 300


async def test_a_token_gives_server_side_subscriptions_that_recover(engine: Engine) -> None:
    claims = {"channels": ["kept:a", "nowhere:a", f"chat:{uuid4()}"], "subs": {"open:a": {"data": {"hello": 1}}}}
    phone = Phone(engine, token("7", **claims))
    subs = await phone.connect()
    await publish(phone, "kept:a", 1)
    await until(lambda: pubs(phone, "kept:a"), "publication")
    phone.drop()
    other = Phone(engine, token("8"))
    await other.connect()
    await publish(other, "kept:a", 2)

    again = Phone(engine, token("7", **claims))
    epoch = subs["kept:a"]["epoch"]
    recovered = await again.connect(**{"kept:a": {"recover": True, "offset": 1, "epoch": epoch}})

    assert set(subs) >= {"kept:a", "open:a"}
    assert not [name for name in subs if name.startswith(("nowhere", "chat"))]
    assert subs["open:a"] == {"data": {"hello": 1}}
    assert recovered["kept:a"]["recovered"] is True
    assert [pub["data"] for pub in recovered["kept:a"]["publications"]] == [2]


async def test_too_many_channels_in_a_token(engine: Engine) -> None:
    phone = Phone(engine, "")

    names = [f"open:{number}" for number in range(129)]
    phone.say(json.dumps({"id": 1, "connect": {"token": token("7", channels=names)}}).encode())

    await phone.until_closed(Disconnect.CHANNEL_LIMIT)


async def test_a_subscription_token_opens_what_is_closed(connect: Any) -> None:
    alice = await connect("7")
    good = token("7", channel="token:a", info={"seat": 3}, exp=int(time.time()) + 60)

    reply = await alice.subscribe("token:a", token=good)
    renewed = await alice.ask(sub_refresh={"channel": "token:a", "token": token("7", channel="token:a")})
    expired = token("7", channel="token:a", exp=int(time.time()) - 1)
    late = await alice.ask(sub_refresh={"channel": "token:a", "token": expired})
    nothing = await alice.ask(sub_refresh={"channel": "token:a"})
    unknown = await alice.ask(sub_refresh={"channel": "token:b", "token": good})

    assert (reply["subscribe"]["expires"], 50 <= reply["subscribe"]["ttl"] <= 60) == (True, True)
    assert renewed["sub_refresh"] == {}
    assert (late["error"]["code"], late["error"]["temporary"]) == (109, True)
    assert (nothing["error"]["code"], unknown["error"]["code"]) == (107, 103)


@pytest.mark.parametrize(
    ("bad", "error", "close"),
    [
        (lambda: "nonsense", 103, None),
        (lambda: token("7"), 103, None),
        (lambda: token("7", channel="token:a", exp=int(time.time()) - 5), 109, None),
        (lambda: token("8", channel="token:a"), None, Disconnect.INVALID_TOKEN),
        (lambda: token("7", channel="token:b"), None, Disconnect.INVALID_TOKEN),
    ],
)
async def test_bad_subscription_tokens(connect: Any, bad: Any, error: int | None, close: Disconnect | None) -> None:
    alice = await connect("7")

    if close:
        alice.say(json.dumps({"id": 5, "subscribe": {"channel": "token:a", "token": bad()}}).encode())
        return await alice.until_closed(close)
    reply = await alice.subscribe("token:a", token=bad())
    assert reply["error"]["code"] == error


async def test_a_refresh_has_to_be_for_the_same_user(connect: Any) -> None:
    alice, bob = await connect("7"), await connect("7")

    renewed = await alice.ask(refresh={"token": token("7", exp=int(time.time()) + 60)})
    bob.say(json.dumps({"id": 5, "refresh": {"token": token("8")}}).encode())
    await bob.until_closed(Disconnect.INVALID_TOKEN)
    alice.say(json.dumps({"id": 5, "refresh": {"token": token("7", exp=int(time.time()) - 5)}}).encode())
    await alice.until_closed(Disconnect.EXPIRED)

    assert renewed["refresh"]["expires"] is True


async def test_insecure_needs_no_token_but_checks_one_that_is_given(transactional_db: None) -> None:
    engine = make_engine(json.dumps(NAMESPACES), is_insecure=True)
    await engine.start()
    try:
        phone, other = Phone(engine, ""), Phone(engine, "")
        subs = await phone.connect()
        assert subs == {}
        assert "subscribe" in await phone.subscribe("token:a")
        assert "publish" in await publish(phone, "quiet:a", 1)
        assert (await phone.subscribe("nowhere:a"))["error"]["code"] == 102
        assert (await phone.subscribe(f"chat:{uuid4()}"))["error"]["code"] == 103
        assert (await phone.subscribe(f"#{uuid4()}"))["error"]["code"] == 103
        other.say(json.dumps({"id": 1, "connect": {"token": "nonsense"}}).encode())
        await other.until_closed(Disconnect.INVALID_TOKEN)
    finally:
        await engine.stop()


async def test_nothing_is_left_of_those_who_have_gone(engine: Engine, connect: Any) -> None:
    phones = [await connect(str(number)) for number in range(5)]
    for phone in phones:
        for channel in ("open:a", "kept:a", "lobby", "quiet:a"):
            await phone.subscribe(channel, **({"delta": "fossil"} if channel == "kept:a" else {}))
    for phone in phones:
        phone.drop()

    await until(lambda: not engine.hub.channels, "end of all channels")
    assert (engine.hub.names, engine.hub.users) == ({}, {})
