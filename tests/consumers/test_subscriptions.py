"""Who hears which channel: on connecting, by command, and as memberships come and go. On the real database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from consumers.engine import Engine
from consumers.protocol.codes import Disconnect
from consumers.subscriptions import MAX_CHANNELS, REJECT_UNRECOVERED
from models import channels, limits, threads
from models.operations import conversations, members, sessions, users
from tests import factories

from .phone import Person, Phone, texts
from .wire import line, until

PhoneOf = Callable[[Person], Phone]


@pytest.fixture
def group(alice: Person, bob: Person) -> UUID:
    return factories.make_group(alice.user, bob.user).id


@pytest.fixture
def chat(group: UUID) -> str:
    return channels.chat(group)


@pytest.fixture
def feed(alice: Person) -> UUID:
    return conversations.create_feed(actor=alice.id, title="News").id


def lies_about_nothing(result: dict[str, Any], after: int, top: int) -> bool:
    """Whether a result is all that was missed, or says that it is not and brings nothing."""
    brought = [publication["offset"] for publication in result.get("publications", ())]
    return brought == (list(range(after + 1, top + 1)) if result.get("recovered") else [])


# --- on connecting


async def test_a_phone_hears_its_person_and_their_conversations_without_asking(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    hers = await threads.run(factories.make_group, alice.user)
    phone = phone_of(bob)

    subs = await phone.connect()
    await alice.send(group, "hello")

    assert set(subs) == {chat, bob.channel}
    assert channels.chat(hers.id) not in subs
    assert all(sub["recoverable"] and sub["positioned"] and sub["epoch"] for sub in subs.values())
    await phone.until_texts(chat, "hello")
    assert phone.heard(chat)[0]["offset"] == subs[chat]["offset"] + 1


async def test_a_phone_that_comes_back_gets_what_it_missed_in_order(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    phone = phone_of(bob)
    known = (await phone.connect())[chat]
    phone.drop()
    await alice.send(group, "one", "two", "three")

    back = phone_of(bob)
    found = (await back.connect(**{chat: {"recover": True, "epoch": known["epoch"], "offset": known["offset"]}}))[chat]
    await alice.send(group, "four")

    assert (found["recovered"], found["was_recovering"], found["epoch"]) == (True, True, known["epoch"])
    assert texts(found["publications"]) == ["one", "two", "three"]
    assert lies_about_nothing(found, known["offset"], known["offset"] + 3)
    await back.until_texts(chat, "four")
    assert back.heard(chat)[0]["offset"] == known["offset"] + 4


async def test_a_phone_that_missed_nothing_is_told_so(phone_of: PhoneOf, bob: Person, chat: str) -> None:
    known = (await phone_of(bob).connect())[chat]

    found = (await phone_of(bob).connect(**{chat: {"recover": True, **position(known)}}))[chat]

    assert found["recovered"]
    assert found["publications"] == []
    assert found["offset"] == known["offset"]


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "another"},
        {"epoch": "_"},
        {"offset": 1_000_000},
        {"offset": -1},
        {"offset": 10**30},
        {"offset": -(10**30)},
    ],
    ids=str,
)
async def test_what_cannot_be_recovered_is_said_and_nothing_is_brought(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str, feed: UUID, changes: dict[str, Any]
) -> None:
    known = (await phone_of(bob).connect())[chat]
    await alice.send(group, "missed")
    await alice.send(feed, "missed")
    phone = phone_of(bob)

    found = (await phone.connect(**{chat: {"recover": True, **position(known), **changes}}))[chat]
    by_command = await phone.subscribe(channels.feed(feed), recover=True, **{"epoch": "", "offset": 0, **changes})

    for result in (found, by_command["subscribe"]):
        assert result["was_recovering"]
        assert not result.get("recovered")
        assert "publications" not in result
    assert found["offset"] == known["offset"] + 1


async def test_beyond_what_one_reply_holds_nothing_is_recovered_in_part(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    known = (await phone_of(bob).connect())[chat]
    await alice.send(group, *(f"number {n}" for n in range(limits.MAX_RECOVERED_PUBLICATIONS + 1)))
    top = known["offset"] + limits.MAX_RECOVERED_PUBLICATIONS + 1

    for after in (known["offset"], known["offset"] + 1, top - 1):
        wanted = {"recover": True, "epoch": known["epoch"], "offset": after}
        found = (await phone_of(bob).connect(**{chat: wanted}))[chat]

        assert found.get("recovered", False) is (after > known["offset"])
        assert lies_about_nothing(found, after, top)


async def test_what_was_said_before_one_joined_is_not_recovered(
    phone_of: PhoneOf, alice: Person, group: UUID, chat: str
) -> None:
    known = (await phone_of(alice).connect())[chat]
    await alice.send(group, "between us")
    newcomer = await threads.run(Person, "Cay")
    await threads.run(members.add_member, actor=alice.id, conversation_id=group, user_id=newcomer.id)

    found = (await phone_of(newcomer).connect(**{chat: {"recover": True, **position(known)}}))[chat]

    assert not found.get("recovered")
    assert "publications" not in found


async def test_who_was_removed_meanwhile_recovers_nothing(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    known = (await phone_of(bob).connect())[chat]
    await threads.run(members.remove_member, actor=alice.id, conversation_id=group, user_id=bob.id)
    phone = phone_of(bob)

    subs = await phone.connect(**{chat: {"recover": True, **position(known)}})
    await alice.send(group, "without him")
    await alice.send((await threads.run(factories.make_direct, alice.user, bob.user)).id, "to him")

    assert chat not in subs
    await until(lambda: phone.pushed("subscribe"), "the new conversation")
    assert phone.heard(chat) == []


async def test_nothing_is_missed_or_doubled_while_everyone_writes(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    known = (await phone_of(bob).connect())[chat]
    written = [f"number {n}" for n in range(60)]
    writing = asyncio.create_task(alice.send(group, *written))

    for _ in range(8):
        phone = phone_of(bob)
        found = (await phone.connect(**{chat: {"recover": True, **position(known)}}))[chat]
        brought = texts(found.get("publications", []))
        await until(lambda p=phone, b=brought: len(b) + len(p.texts(chat)) >= min(len(b) + 3, len(written)), "more")
        assert (brought + phone.texts(chat)) == written[: len(brought) + len(phone.texts(chat))]
        phone.drop()
    await writing


# --- by command


async def test_a_feed_is_heard_by_who_asks_for_it_until_they_ask_no_more(
    phone_of: PhoneOf, alice: Person, bob: Person, feed: UUID
) -> None:
    channel, phone = channels.feed(feed), phone_of(bob)
    await phone.connect()

    subscribed = await phone.subscribe(channel)
    await alice.send(feed, "heard")
    await phone.until_texts(channel, "heard")
    assert await phone.ask(unsubscribe={"channel": channel}) == {"id": 3, "unsubscribe": {}}
    await alice.send(feed, "missed")
    again = await phone.subscribe(channel, recover=True, **position(subscribed["subscribe"]))

    assert subscribed["subscribe"]["recoverable"]
    assert again["subscribe"]["recovered"]
    assert texts(again["subscribe"]["publications"]) == ["heard", "missed"]
    assert phone.texts(channel) == ["heard"]


async def test_who_wants_all_or_nothing_gets_an_error_instead_of_a_gap(
    phone_of: PhoneOf, bob: Person, feed: UUID
) -> None:
    phone = phone_of(bob)
    await phone.connect()

    refused = await phone.subscribe(channels.feed(feed), recover=True, epoch="another", flag=REJECT_UNRECOVERED)
    taken = await phone.subscribe(channels.feed(feed))

    assert refused["error"]["code"] == 112
    assert "subscribe" in taken, "a refusal leaves nothing behind"


# The same each time: tests that run side by side go by their names.
NOBODY = UUID(int=7)


@pytest.mark.parametrize(
    ("channel", "fields", "code"),
    [
        (channels.chat(NOBODY), {}, 103),
        (channels.feed(NOBODY), {}, 103),
        (channels.personal(NOBODY), {}, 103),
        ("chat:not-an-id", {}, 103),
        ("weather", {}, 102),
        ("news:today", {}, 102),
        ("feed:" + "x" * 300, {}, 107),
        ("feed:é", {}, 107),
        (channels.feed(NOBODY), {"token": "eyJ"}, 103),
        (channels.feed(NOBODY), {"type": 1}, 107),
    ],
)
async def test_what_is_not_for_them_is_refused(
    phone_of: PhoneOf, bob: Person, channel: str, fields: dict[str, Any], code: int
) -> None:
    phone = phone_of(bob)
    await phone.connect()

    assert (await phone.subscribe(channel, **fields))["error"]["code"] == code
    assert phone.wire.closed is None


async def test_somebody_elses_conversation_looks_as_if_it_did_not_exist(phone_of: PhoneOf, bob: Person) -> None:
    stranger = await threads.run(Person, "Stranger")
    theirs = await threads.run(factories.make_group, stranger.user)
    phone = phone_of(bob)
    await phone.connect()

    answers = [(await phone.subscribe(channels.chat(id)))["error"] for id in (theirs.id, uuid4())]

    assert answers[0] == answers[1]


async def test_subscribing_to_what_one_has_is_refused(phone_of: PhoneOf, bob: Person, chat: str, feed: UUID) -> None:
    phone = phone_of(bob)
    await phone.connect()
    await phone.subscribe(channels.feed(feed))

    for channel in (chat, bob.channel, channels.feed(feed)):
        assert (await phone.subscribe(channel))["error"]["code"] == 105


async def test_a_channel_without_a_name_is_a_mistake_of_the_app(phone_of: PhoneOf, bob: Person) -> None:
    phone = phone_of(bob)
    await phone.connect()

    phone.say(line(id=9, subscribe={"channel": ""}))

    await phone.until_closed(Disconnect.BAD_REQUEST)


async def test_there_is_an_end_to_what_one_phone_may_ask_for(phone_of: PhoneOf, alice: Person, bob: Person) -> None:
    feeds = [
        await threads.run(conversations.create_feed, actor=alice.id, title="News") for _ in range(MAX_CHANNELS + 1)
    ]
    phone = phone_of(bob)
    await phone.connect()

    *allowed, refused = [await phone.subscribe(channels.feed(feed.id)) for feed in feeds]
    await phone.ask(unsubscribe={"channel": channels.feed(feeds[0].id)})

    assert all("subscribe" in answer for answer in allowed)
    assert refused["error"]["code"] == 106
    assert "subscribe" in await phone.subscribe(channels.feed(feeds[-1].id))


async def test_a_change_of_mind_before_the_answer_is_answered_in_order(
    phone_of: PhoneOf, alice: Person, bob: Person, feed: UUID
) -> None:
    channel, phone = channels.feed(feed), phone_of(bob)
    await phone.connect()

    phone.say(line(id=8, subscribe={"channel": channel}), line(id=9, unsubscribe={"channel": channel}))
    await until(lambda: any(reply.get("id") == 9 for reply in phone.wire.replies), "answers")
    await alice.send(feed, "unheard")
    await phone.ask(rpc={"method": "user.me"})

    assert [reply["id"] for reply in phone.wire.replies if reply.get("id") in (8, 9)] == [8, 9]
    assert phone.heard(channel) == []


async def test_what_the_server_gave_is_not_the_clients_to_end(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    phone = phone_of(bob)
    await phone.connect()

    assert "unsubscribe" in await phone.ask(unsubscribe={"channel": chat})
    await alice.send(group, "still heard")

    await phone.until_texts(chat, "still heard")


# --- as memberships come and go


async def test_who_is_added_hears_the_conversation_from_then_on(
    phone_of: PhoneOf, alice: Person, group: UUID, chat: str
) -> None:
    newcomer = await threads.run(Person, "Cay")
    phone = phone_of(newcomer)
    await phone.connect()

    await threads.run(members.add_member, actor=alice.id, conversation_id=group, user_id=newcomer.id)
    await until(lambda: phone.pushed("subscribe"), "subscribe push")
    await alice.send(group, "welcome")

    await phone.until_texts(chat, "welcome")
    ((channel, subscribed),) = phone.pushed("subscribe")
    assert (channel, subscribed["recoverable"]) == (chat, True)
    offsets = [publication["offset"] for publication in phone.heard(chat)]
    assert offsets == list(range(subscribed["offset"] + 1, offsets[-1] + 1))
    assert phone.kinds(newcomer.channel) == ["conversation.joined"]


async def test_who_is_removed_hears_of_it_and_nothing_more(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    his, hers = phone_of(bob), phone_of(alice)
    await his.connect()
    await hers.connect()
    await alice.send(group, "with him")

    await threads.run(members.remove_member, actor=alice.id, conversation_id=group, user_id=bob.id)
    await alice.send(group, "without him")

    await hers.until_texts(chat, "with him", "without him")
    await until(lambda: his.pushed("unsubscribe"), "unsubscribe push")
    assert his.pushed("unsubscribe") == [(chat, {"code": 2000, "reason": "server unsubscribe"})]
    assert his.kinds(chat)[-1] == "member.removed"
    assert his.texts(chat) == ["with him"]
    assert his.wire.closed is None
    assert (await his.subscribe(chat))["error"]["code"] == 103


async def test_a_deleted_conversation_ends_for_everyone(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str
) -> None:
    phones = [phone_of(alice), phone_of(bob)]
    for phone in phones:
        await phone.connect()

    await threads.run(conversations.delete_conversation, actor=alice.id, conversation_id=group)

    for phone in phones:
        await until(lambda p=phone: p.pushed("unsubscribe"), "unsubscribe push")
        assert phone.pushed("unsubscribe")[0][0] == chat
        assert phone.kinds(chat)[-1] == "conversation.deleted"
        assert phone.wire.closed is None


async def test_a_revoked_session_closes_its_own_sockets_only(engine: Engine, bob: Person) -> None:
    other_login = await threads.run(factories.make_session, bob.user)
    phone, laptop = Phone(engine, bob.login), Phone(engine, other_login)
    await phone.connect()
    await laptop.connect()

    await threads.run(sessions.revoke_session, actor=bob.id, session_id=bob.login.session.id)

    await phone.until_closed(Disconnect.INVALID_TOKEN)
    await until(lambda: laptop.kinds(bob.channel), "publication")
    assert laptop.kinds(bob.channel) == ["session.revoked"]
    assert laptop.wire.closed is None


async def test_a_revoked_session_cannot_connect_although_its_token_lives(phone_of: PhoneOf, bob: Person) -> None:
    await threads.run(sessions.revoke_session, actor=bob.id, session_id=bob.login.session.id)
    phone = phone_of(bob)

    phone.say(line(id=1, connect={"token": factories.access_token(bob.login)}))

    await phone.until_closed(Disconnect.INVALID_TOKEN)


async def test_a_deleted_account_closes_all_its_sockets(phone_of: PhoneOf, bob: Person) -> None:
    phones = [phone_of(bob), phone_of(bob)]
    for phone in phones:
        await phone.connect()

    await threads.run(users.delete_account, actor=bob.id)

    for phone in phones:
        await phone.until_closed(Disconnect.FORCE_DISCONNECT)


async def test_a_conversation_beyond_the_first_ones_comes_back_with_its_next_message(
    phone_of: PhoneOf, alice: Person, bob: Person, group: UUID, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INITIAL_SUBSCRIBED_CONVERSATIONS", 1)
    newer = await threads.run(factories.make_group, alice.user, bob.user)
    await alice.send(newer.id, "newer")
    phone = phone_of(bob)

    subs = await phone.connect()
    await alice.send(group, "from long ago", "and again")

    assert set(subs) == {channels.chat(newer.id), bob.channel}
    await phone.until_texts(chat, "from long ago", "and again")
    ((channel, subscribed),) = phone.pushed("subscribe")
    assert (channel, subscribed["offset"] + 1) == (chat, phone.heard(chat)[0]["offset"])


def position(result: dict[str, Any]) -> dict[str, Any]:
    """Where a client is, from what a reply said."""
    return {"epoch": result["epoch"], "offset": result.get("offset", 0)}
