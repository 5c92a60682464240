"""The writer while something fails: full queues, held rows, lost answers, a database that is away or unsafe."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest

from models import errors, threads
from models.conversation import Conversation
from models.events import Publication
from models.ids import new_id
from models.stream import Stream, WriterBatch
from models.writer import PublicationDraft, StoredMessage, UnsafeDatabase, Writer
from models.writer_connection import WriterConnection

from .scene import draft, dsn, make_conversation, rows, value, writing

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sender() -> UUID:
    return new_id()


@pytest.fixture
def group(sender: UUID) -> Conversation:
    return make_conversation(sender)


async def seqs(conversation: Conversation) -> list[int]:
    found = await rows("SELECT seq FROM messaging_message WHERE conversation_id = %s ORDER BY 1", conversation.id)
    return [seq for (seq,) in found]


def lose_answers(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Break the connection after the next commits, so that nobody hears of them."""
    store, left = WriterConnection.store, [times]

    async def store_and_break(self: WriterConnection, *arguments: object) -> object:
        result = await store(self, *arguments)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            self.cut()
            raise psycopg.OperationalError("the connection broke")
        return result

    monkeypatch.setattr(WriterConnection, "store", store_and_break)
    return left


# --- answers that are lost


async def test_commit_whose_answer_was_lost_is_recognised(
    sender: UUID, group: Conversation, monkeypatch: pytest.MonkeyPatch
):
    heard: list[Publication] = []
    async with writing(heard.extend) as writer:
        earlier = await writer.send(draft(group.id, sender, client_id="earlier"))
        left = lose_answers(monkeypatch, 1)
        stored, again, refused, raw = await asyncio.gather(
            writer.send(draft(group.id, sender, "stored")),
            writer.send(draft(group.id, sender, client_id="earlier")),
            writer.send(draft(group.id, new_id())),
            writer.publish(PublicationDraft(channel="news", data=b"{}")),
            return_exceptions=True,
        )

    assert left == [0]
    assert isinstance(stored, StoredMessage)
    assert (stored.seq, stored.duplicate) == (2, False)
    assert b'"stored"' in (stored.message_json or b"")
    assert isinstance(again, StoredMessage)
    assert (again.id, again.duplicate) == (earlier.id, True)
    assert isinstance(refused, errors.ConversationNotFound)
    assert isinstance(raw, Publication)
    assert (raw.channel, raw.offset, raw.data) == ("news", 1, b"{}")
    assert [(p.channel, p.offset) for p in heard] == [(group.channel, 1), (group.channel, 2), ("news", 1)]
    assert await seqs(group) == [1, 2]


async def test_batch_whose_outcome_stays_hidden_is_given_up(
    sender: UUID, group: Conversation, monkeypatch: pytest.MonkeyPatch
):
    message = draft(group.id, sender)
    async with writing() as writer:
        # More than the batch is tried: its first commit is found again each time, but never answered.
        lose_answers(monkeypatch, 1)
        monkeypatch.setattr(WriterConnection, "recognise", _break)
        with pytest.raises(errors.DatabaseUnavailable):
            await writer.send(message)
        again = await writer.send(message)

    assert (again.seq, again.duplicate) == (1, True)


async def _break(self: WriterConnection, *arguments: object) -> object:
    self.cut()
    raise psycopg.OperationalError("the connection broke")


async def test_batches_that_nobody_can_ask_about_any_more_are_forgotten(sender: UUID, group: Conversation):
    old = UUID("01900000-0000-7000-8000-000000000000")
    await threads.run(WriterBatch.objects.create, id=old)
    async with writing() as writer:
        await writer.send(draft(group.id, sender))

    kept = await rows("SELECT id FROM messaging_writerbatch")
    assert len(kept) == 1
    assert kept != [(old,)]


# --- a queue that is full or old


async def test_full_queue_refuses_with_a_retryable_error(sender: UUID, group: Conversation):
    async with writing(max_bytes=2000) as writer:
        answers = await asyncio.gather(
            *(writer.send(draft(group.id, sender, "x" * 500)) for _ in range(3)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [StoredMessage, errors.Overloaded, errors.Overloaded]
        assert (await writer.send(draft(group.id, sender, "x" * 500))).seq == 2


async def test_draft_that_waits_too_long_is_refused_and_not_stored(sender: UUID, group: Conversation):
    async with writing(max_age_seconds=0.3) as writer, await psycopg.AsyncConnection.connect(dsn()) as holder:
        await writer.send(draft(group.id, sender))
        await holder.execute("SELECT FROM messaging_stream WHERE id = %s FOR UPDATE", [group.id])
        answers = await asyncio.gather(
            *(writer.send(draft(group.id, sender)) for _ in range(3)), return_exceptions=True
        )
        await holder.rollback()
        assert all(isinstance(answer, errors.Unavailable) for answer in answers)
        assert (await writer.send(draft(group.id, sender))).seq == 2


async def test_conversation_that_somebody_holds_delays_no_other(sender: UUID, group: Conversation):
    other = await threads.run(make_conversation, sender)
    async with writing() as writer, await psycopg.AsyncConnection.connect(dsn()) as holder:
        await holder.execute("SELECT FROM messaging_stream WHERE id = %s FOR UPDATE", [group.id])
        held = [writer.send(draft(group.id, sender, f"{n}")) for n in range(3)]
        free = writer.send(draft(other.id, sender))
        missing = writer.send(draft(new_id(), sender))
        raw = writer.publish(PublicationDraft(channel="news", data=b"1"))
        assert (await free).seq == 1
        with pytest.raises(errors.ConversationNotFound):
            await missing
        assert (await raw).offset == 1
        assert not any(message.done() for message in held)
        for n in range(2, 20):
            assert (await writer.send(draft(other.id, sender))).seq == n
        await holder.rollback()
        assert [(await message).seq for message in held] == [1, 2, 3]


# --- a database that is away


async def test_drafts_wait_for_a_database_that_comes_back(
    sender: UUID, group: Conversation, monkeypatch: pytest.MonkeyPatch
):
    opened, away = WriterConnection.open, [True]

    async def open_if_there(*arguments: str, require_durable: bool) -> WriterConnection:
        if away[0]:
            raise psycopg.OperationalError("nobody listens there")
        return await opened(*arguments, require_durable=require_durable)

    monkeypatch.setattr(WriterConnection, "open", open_if_there)
    async with writing() as writer:
        waiting = writer.send(draft(group.id, sender))
        await asyncio.sleep(0)
        away[0] = False
        assert (await waiting).seq == 1


async def test_nothing_waits_for_ever_for_a_database_that_stays_away(sender: UUID):
    heard: list[Publication] = []
    writer = Writer("host=127.0.0.1 port=1 dbname=nowhere", max_age_seconds=0.3, on_committed=heard.extend)
    await writer.start()
    answers = await asyncio.gather(*(writer.send(draft(new_id(), sender)) for _ in range(5)), return_exceptions=True)
    await writer.stop(5)

    assert all(isinstance(answer, errors.Unavailable) for answer in answers)
    assert heard == []


async def test_broken_network_ends_by_itself(sender: UUID, group: Conversation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.writer_connection.CUT_SECONDS", 0.2)
    async with writing() as writer, await psycopg.AsyncConnection.connect(dsn()) as holder:
        await writer.send(draft(group.id, sender))
        # Waits for longer than the network may be silent: for the writer it is the same.
        await holder.execute("SELECT FROM messaging_stream WHERE id = %s FOR UPDATE", [group.id])
        waiting = writer.send(draft(group.id, sender))
        while await value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 0:
            pass
        backend = await value("SELECT min(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while backend == await value(
            "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'roost writer' AND state = 'active'"
        ):
            pass
        await holder.rollback()
        assert (await waiting).seq == 2

    assert await seqs(group) == [1, 2]


# --- an unsafe database


async def test_database_that_can_lose_a_commit_is_refused(monkeypatch: pytest.MonkeyPatch):
    unsafe = dsn() + " options='-c synchronous_commit=off'"
    with pytest.raises(UnsafeDatabase, match="synchronous_commit"):
        await Writer(unsafe, on_committed=print).start()

    permitted = Writer(unsafe, on_committed=print, require_durable=False)
    await permitted.start()
    await permitted.stop(1)


# --- the end


async def test_stopping_finishes_the_queue_and_refuses_newcomers(sender: UUID, group: Conversation):
    async with writing(batch=10) as writer:
        waiting = [writer.send(draft(group.id, sender)) for _ in range(55)]
        stopping = asyncio.create_task(writer.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):
            await writer.send(draft(group.id, sender))
        await stopping

    assert [message.result().seq for message in waiting] == list(range(1, 56))


async def test_stopping_gives_up_in_time(sender: UUID, group: Conversation):
    async with writing() as writer, await psycopg.AsyncConnection.connect(dsn()) as holder:
        await holder.execute("SELECT FROM messaging_stream WHERE id = %s FOR UPDATE", [group.id])
        waiting = [writer.send(draft(group.id, sender)) for _ in range(3)]
        async with asyncio.timeout(3):
            await writer.stop(0.1)

    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {errors.DatabaseUnavailable}


# --- raw publications


async def test_raw_publications_make_their_stream_and_keep_their_bytes():
    heard: list[Publication] = []
    sent = PublicationDraft(channel="news:today", data=b'{ "a":\t1}', info=b"{}", tags={"k": "v"})
    async with writing(heard.extend) as writer:
        first, second = await asyncio.gather(writer.publish(sent), writer.publish(sent))

    assert (first.offset, second.offset) == (1, 2)
    assert heard == [first, second]
    assert (first.data, first.info, first.tags, bool(first.epoch)) == (sent.data, sent.info, sent.tags, True)
    assert await threads.run(lambda: Stream.objects.get(channel="news:today").top) == 2
    stored = await rows('SELECT "offset", data, info, tags FROM messaging_publication ORDER BY 1')
    assert stored == [(n, sent.data, sent.info, sent.tags) for n in (1, 2)]


async def test_same_idempotency_key_is_one_publication():
    heard: list[Publication] = []
    one = PublicationDraft(channel="news", data=b"1", idempotency_key="k")
    other = PublicationDraft(channel="sport", data=b"1", idempotency_key="k")
    async with writing(heard.extend) as writer:
        offsets = [p.offset for p in await asyncio.gather(*(writer.publish(d) for d in (one, one, other, one)))]
        later = await writer.publish(one)

    assert [*offsets, later.offset] == [1, 1, 1, 1, 1]
    assert sorted((p.channel, p.offset) for p in heard) == [("news", 1), ("sport", 1)]


@pytest.mark.parametrize("channel", ["", "x" * 256, "chat:x", f"feed:{UUID(int=7)}", "a\0b"])
async def test_raw_publications_go_into_channels_of_the_operator_only(channel: str):
    async with writing() as writer:
        with pytest.raises(errors.InvalidInput):
            await writer.publish(PublicationDraft(channel=channel, data=b"{}"))
