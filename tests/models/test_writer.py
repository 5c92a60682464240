"""The group-commit writer on the real database: everyone gets an answer of their own, and nothing is stored twice."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import psycopg
import pytest

from models import errors, threads
from models.conversation import Conversation, Member
from models.events import Publication
from models.ids import new_id
from models.user import Block
from models.writer import StoredMessage, Writer

from .scene import draft, dsn, make_conversation, make_groups, make_person, rows, value, writing

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sender() -> UUID:
    return new_id()


@pytest.fixture
def reader() -> UUID:
    return new_id()


@pytest.fixture
def group(sender: UUID, reader: UUID) -> Conversation:
    return make_conversation(sender, reader)


async def seqs(conversation: UUID) -> list[int]:
    return [seq for (seq,) in await rows("SELECT seq FROM messaging_message WHERE conversation_id = %s", conversation)]


async def test_message_is_stored_published_and_put_into_the_outbox(sender: UUID, reader: UUID, group: Conversation):
    heard: list[Publication] = []
    target = draft(group.id, sender, "first")
    async with writing(heard.extend) as writer:
        first = await writer.send(target)
        stored = await writer.send(
            draft(group.id, sender, "hé \U0001f98a", data={"a": [1]}, mentions=(reader, new_id()), reply_to=first.id)
        )

    assert (stored.seq, stored.duplicate) == (2, False)
    assert [p.offset for p in heard] == [1, 2]
    event = msgspec.json.decode(heard[1].data)
    assert event["type"] == heard[1].kind == "message.sent"
    assert heard[1].channel == group.channel
    assert event["message"] == msgspec.json.decode(stored.message_json or b"")
    assert event["message"] | {"created_at": ""} == {
        "id": str(stored.id),
        "conversation": str(group.id),
        "seq": 2,
        "kind": "text",
        "sender": str(sender),
        "client_id": event["message"]["client_id"],
        "text": "hé \U0001f98a",
        "data": {"a": [1]},
        # Only members can be mentioned; whoever else is named is left out.
        "mentions": [str(reader)],
        "reply_to": str(first.id),
        "created_at": "",
        "edited_at": None,
        "deleted_at": None,
    }
    assert await rows("SELECT top FROM messaging_stream WHERE id = %s", group.id) == [(2,)]
    assert await rows("SELECT message_id, seq FROM messaging_notification ORDER BY seq") == [
        (first.id, 1),
        (stored.id, 2),
    ]
    assert await rows('SELECT "offset", message_id, data FROM messaging_publication ORDER BY 1') == [
        (1, first.id, None),
        (2, stored.id, None),
    ]


async def test_same_client_id_in_one_batch_is_one_message(sender: UUID, group: Conversation):
    async with writing() as writer:
        first, second, other = await asyncio.gather(
            writer.send(draft(group.id, sender, "one", client_id="x")),
            writer.send(draft(group.id, sender, "two", client_id="x")),
            writer.send(draft(group.id, sender, "three", client_id="y")),
        )

    assert (second.id, second.seq, second.duplicate) == (first.id, first.seq, True)
    assert second.created_at == first.created_at
    assert not other.duplicate
    assert sorted(await seqs(group.id)) == [1, 2]


async def test_same_client_id_through_two_writers_is_one_message(sender: UUID, group: Conversation):
    async with writing() as one, writing() as two:
        for n in range(20):
            stored = await asyncio.gather(
                *(writer.send(draft(group.id, sender, client_id=f"id {n}")) for writer in (one, two, one, two))
            )
            assert len({(s.id, s.seq) for s in stored}) == 1
            assert [s.duplicate for s in stored].count(False) == 1

    assert sorted(await seqs(group.id)) == list(range(1, 21))


async def test_each_caller_gets_its_own_refusal(sender: UUID, reader: UUID, group: Conversation):
    feed = await threads.run(make_conversation, sender, reader, kind="feed")
    blocker, blocked = await threads.run(make_person), await threads.run(make_person)
    direct = await threads.run(make_conversation, blocker, blocked, kind="direct")
    await threads.run(Block.objects.create, blocker=blocker, blocked=blocked)
    stranger = new_id()
    async with writing() as writer:
        answers = await asyncio.gather(
            writer.send(draft(group.id, sender)),
            writer.send(draft(group.id, stranger)),
            writer.send(draft(new_id(), sender)),
            writer.send(draft(feed.id, reader)),
            writer.send(draft(feed.id, sender)),
            writer.send(draft(direct.id, blocker.id)),
            writer.send(draft(direct.id, blocked.id)),
            writer.send(draft(group.id, sender, reply_to=new_id())),
            writer.send(draft(group.id, sender, "")),
            writer.send(draft(group.id, sender, "x" * 10_001)),
            writer.send(draft(group.id, sender, "\0")),
            writer.send(draft(group.id, sender, "\ud800")),
            writer.send(draft(group.id, sender, data={"deep": ["\0"]})),
            writer.send(draft(group.id, sender, data="x" * 9000)),
            writer.send(draft(group.id, sender, client_id="")),
            writer.send(draft(group.id, sender, client_id="x" * 65)),
            writer.send(draft(group.id, sender, kind="system")),
            writer.send(draft(group.id, sender, r"a literal \u0000 is fine", data=r"so \u0000")),
            return_exceptions=True,
        )

    assert [type(answer) for answer in answers] == [
        StoredMessage,
        errors.ConversationNotFound,
        errors.ConversationNotFound,
        errors.PostingNotAllowed,
        StoredMessage,
        errors.DirectBlocked,
        errors.DirectBlocked,
        errors.ReplyTargetGone,
        errors.EmptyMessage,
        errors.TextTooLong,
        errors.BadText,
        errors.BadText,
        errors.BadText,
        errors.DataTooLarge,
        errors.BadClientId,
        errors.BadClientId,
        errors.InvalidInput,
        StoredMessage,
    ]
    assert sorted(await seqs(group.id)) == [1, 2]


async def test_message_that_postgresql_refuses_harms_no_other(sender: UUID, group: Conversation):
    # Numbers beyond what the database can hold pass every check of ours.
    poison = {"number": msgspec.Raw(b"1" + b"0" * 5000 + b"e130000")}
    async with writing() as writer:
        drafts = [draft(group.id, sender, f"{n}", data=poison if n == 7 else None) for n in range(20)]
        answers = await asyncio.gather(*map(writer.send, drafts), return_exceptions=True)

    assert [n for n, answer in enumerate(answers) if isinstance(answer, errors.InvalidInput)] == [7]
    stored = [answer.seq for answer in answers if isinstance(answer, StoredMessage)]
    assert stored == list(range(1, 20))


async def test_message_brings_a_hidden_direct_conversation_back(sender: UUID, reader: UUID):
    direct = await threads.run(make_conversation, sender, reader, kind="direct")
    group = await threads.run(make_conversation, sender, reader)
    await threads.run(Member.objects.filter(user_id=reader).update, is_hidden=True)
    async with writing() as writer:
        await asyncio.gather(writer.send(draft(direct.id, sender)), writer.send(draft(group.id, sender)))

    hidden = await rows("SELECT conversation_id FROM messaging_member WHERE is_hidden")
    assert hidden == [(group.id,)]


async def test_two_writers_on_the_same_conversations_neither_deadlock_nor_leave_holes():
    groups = await threads.run(make_groups, 20)
    heard: list[Publication] = []
    deadlocks = await value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    async with writing(heard.extend) as one, writing(heard.extend) as two:

        async def keep_sending(writer: Writer, order: int) -> None:
            for _ in range(15):
                stored = await asyncio.gather(*(writer.send(draft(c, s)) for c, s in groups[::order]))
                assert all(not message.duplicate for message in stored)

        await asyncio.gather(*(keep_sending(writer, order) for writer in (one, two) for order in (1, -1, 1)))

    for conversation, _ in groups:
        assert sorted(await seqs(conversation)) == list(range(1, 91))
    assert len({(p.channel, p.offset) for p in heard}) == len(heard) == 20 * 90
    assert await value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == deadlocks
    mismatched = await value(
        """SELECT count(*) FROM messaging_publication p FULL JOIN messaging_message m
        ON m.id = p.message_id AND m.seq = p."offset" AND m.conversation_id = p.stream_id
        WHERE p.message_id IS NULL OR m.id IS NULL"""
    )
    assert mismatched == 0


async def test_message_after_the_removal_of_its_sender_never_exists(sender: UUID, group: Conversation):
    async with writing() as writer, await psycopg.AsyncConnection.connect(dsn()) as removal:
        await writer.send(draft(group.id, sender))
        # A removal as operations do it: stream row first, then the membership, then the commit.
        await removal.execute("SELECT FROM messaging_stream WHERE id = %s FOR NO KEY UPDATE", [group.id])
        waiting = [writer.send(draft(group.id, sender)) for _ in range(10)]
        await removal.execute("DELETE FROM messaging_member WHERE user_id = %s", [sender])
        await removal.commit()
        answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(answer) for answer in answers} == {errors.ConversationNotFound}
    assert await seqs(group.id) == [1]


async def test_acknowledged_exactly_once_while_connections_are_killed():
    groups = await threads.run(make_groups, 5)
    heard: list[Publication] = []
    is_over, has_committed = False, asyncio.Event()

    def hear(publications: list[Publication]) -> None:
        heard.extend(publications)
        has_committed.set()

    async def kill() -> int:
        killed = 0
        while not is_over:
            # Something was committed, so the next batch is on its way: whichever part of it is under way is cut off.
            has_committed.clear()
            await has_committed.wait()
            killed += await value(
                """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name = 'roost writer' AND datname = current_database()"""
            )
        return killed

    async with writing(hear) as writer:

        async def keep_sending(conversation: UUID, sender: UUID) -> list[StoredMessage]:
            return [await _send_until_stored(writer, conversation, sender) for _ in range(60)]

        killer = asyncio.create_task(kill())
        acknowledged = await asyncio.gather(*(keep_sending(*pair) for pair in groups for _ in range(4)))
        is_over = True
        has_committed.set()
        assert await killer > 3

    flat = [message for messages in acknowledged for message in messages]
    assert len({message.id for message in flat}) == len(flat) == 5 * 4 * 60
    for conversation, _ in groups:
        assert sorted(await seqs(conversation)) == list(range(1, 241))
    acknowledged_here = {message.id: message.seq for message in flat}
    assert dict(await rows("SELECT id, seq FROM messaging_message")) == acknowledged_here
    assert len({(p.channel, p.offset) for p in heard}) == len(heard)


async def _send_until_stored(writer: Writer, conversation: UUID, sender: UUID) -> StoredMessage:
    """What an app does: the same client_id again, until there is an answer."""
    message = draft(conversation, sender)
    while True:
        try:
            return await writer.send(message)
        except errors.Unavailable:
            continue
