"""Streams in synchronous operations: offsets without holes, one order of locks, publications only after the commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import psycopg
import pytest
from django.db import connection, transaction

from models import channels, streams
from models.conversation import Conversation
from models.events import ConversationJoined, Publication, TypingStopped, UserChanged
from models.ids import new_id
from models.message import Message
from models.payloads import MessageSent
from models.queries.streams import gaps
from models.stream import Deployment, Stream

from .scene import dsn, make_conversation

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard() -> Iterator[list[Publication]]:
    publications: list[Publication] = []
    forget = streams.on_publish(publications.extend)
    yield publications
    forget()


@pytest.fixture
def conversation() -> Conversation:
    return make_conversation(new_id(), new_id())


def changed() -> UserChanged:
    return UserChanged(user=new_id())


def test_publications_are_handed_over_after_the_commit(conversation: Conversation, heard: list[Publication]):
    with transaction.atomic():
        streams.lock([conversation.channel])
        assert [streams.append(conversation.channel, changed()) for _ in range(3)] == [1, 2, 3]
        assert heard == []

    assert [p.offset for p in heard] == [1, 2, 3]


def test_nothing_is_handed_over_or_numbered_by_what_was_rolled_back(
    conversation: Conversation, heard: list[Publication]
):
    with transaction.atomic():
        streams.lock([conversation.channel])
        streams.append(conversation.channel, changed())
        streams.hint(conversation.channel, changed())
        transaction.set_rollback(True)

    assert heard == []
    assert Stream.objects.get(id=conversation.id).top == 0


def test_a_handler_that_fails_harms_neither_the_write_nor_other_handlers(
    conversation: Conversation, heard: list[Publication]
):
    def fail(publications: list[Publication]) -> None:
        raise ZeroDivisionError

    forget = streams.on_publish(fail)
    other: list[Publication] = []
    forget_other = streams.on_publish(other.extend)
    streams.append(conversation.channel, changed())
    forget()
    forget_other()

    assert [p.offset for p in other] == [p.offset for p in heard] == [1]


def test_many_events_are_numbered_in_order_in_each_stream(conversation: Conversation, heard: list[Publication]):
    other = make_conversation(new_id())
    order = [conversation.channel, other.channel, conversation.channel]
    events = [changed() for _ in order]

    with transaction.atomic():
        streams.lock(order)
        offsets = streams.append_each(list(zip(order, events, strict=True)))

    assert offsets == [1, 1, 2]
    assert [(p.channel, p.offset) for p in heard] == list(zip(order, offsets, strict=True))
    assert [p.data for p in heard] == [bytes(p.data or b"") for p in _stored(order, offsets)]


def _stored(order: list[str], offsets: list[int]) -> list[Publication]:
    return [gaps([(channel, offset - 1, offset)])[0] for channel, offset in zip(order, offsets, strict=True)]


def test_event_says_whom_and_what_it_concerns(heard: list[Publication]):
    user, conversation_id = new_id(), new_id()
    personal = channels.personal(user)
    event = ConversationJoined(conversation=conversation_id, channel=channels.chat(conversation_id))

    with transaction.atomic():
        streams.lock([personal])
        streams.append(personal, event)

    assert (heard[0].kind, heard[0].ref, heard[0].subject) == ("conversation.joined", conversation_id, None)


def test_system_message_takes_its_seq_where_it_is_stored(conversation: Conversation, heard: list[Publication]):
    active_at = Stream.objects.get(id=conversation.id).active_at
    with transaction.atomic():
        streams.lock([conversation.channel])
        streams.append(conversation.channel, changed())
        message = Message(conversation=conversation, kind="system", client_id="", data={"event": "renamed"})
        offset = streams.append_message(message, MessageSent)

    assert (offset, message.seq, Message.objects.get().seq) == (2, 2, 2)
    assert Stream.objects.get(id=conversation.id).active_at > active_at
    shown = msgspec.json.decode(heard[1].data)
    assert (shown["type"], shown["message"]["sender"], shown["message"]["data"]) == (
        "message.sent",
        None,
        {"event": "renamed"},
    )
    (again,) = gaps([(conversation.channel, 1, 2)])
    assert msgspec.json.decode(again.data) == shown


def test_hints_have_no_offset_and_are_not_stored(conversation: Conversation, heard: list[Publication]):
    streams.hint(conversation.channel, TypingStopped(conversation=conversation.id, user=new_id()))

    assert [(p.offset, p.kind) for p in heard] == [(0, "typing.stopped")]
    assert Stream.objects.get(id=conversation.id).top == 0


def test_lock_makes_personal_streams_but_no_conversations(conversation: Conversation):
    person, missing = channels.personal(new_id()), channels.chat(new_id())

    with transaction.atomic():
        locked = streams.lock([missing, person, conversation.channel])

    assert set(locked) == {person, conversation.channel}
    assert locked[person].top == 0
    assert not Stream.objects.filter(channel=missing).exists()


def test_append_needs_a_stream():
    with pytest.raises(AssertionError, match="lock"), transaction.atomic():
        streams.append(channels.chat(new_id()), changed())


def test_epoch_on_the_wire_joins_the_deployments_and_the_streams(conversation: Conversation, heard: list[Publication]):
    Deployment.objects.update_or_create(id=1, defaults={"epoch": "deploy"})
    own = Stream.objects.get(id=conversation.id).epoch

    streams.append(conversation.channel, changed())

    assert heard[0].epoch == streams.wire_epoch(own) == f"deploy.{own}"


def test_locks_are_taken_conversations_first_and_in_the_order_of_ids():
    names = [channels.personal(new_id()) for _ in range(3)] + [channels.chat(new_id()) for _ in range(3)] + ["news"]
    streams.create(*names)
    expected = sorted(names, key=lambda name: (channels.stream_kind(name), channels.stream_id(name)))
    # Somebody holds each row in turn: those before it must be locked by then, those after it must not.
    for place, name in enumerate(expected):
        with psycopg.connect(dsn()) as holder:
            holder.execute("SELECT FROM messaging_stream WHERE channel = %s FOR UPDATE", [name])
            locking = threading.Thread(target=_lock, args=[names])
            locking.start()
            try:
                assert _held_by_others(place, name) == set(expected[: place + 1])
            finally:
                holder.rollback()
                locking.join()


def _lock(names: list[str]) -> None:
    try:
        with transaction.atomic():
            streams.lock(names)
    finally:
        connection.close()


def _held_by_others(count: int, held: str) -> set[str]:
    """Which rows are locked once somebody waits for ``held``."""
    with psycopg.connect(dsn(), autocommit=True) as db:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while db.execute(waiting).fetchone() == (0,):
            pass
        free = db.execute("SELECT channel FROM messaging_stream FOR UPDATE SKIP LOCKED").fetchall()
        everything = db.execute("SELECT channel FROM messaging_stream").fetchall()
        return {name for (name,) in everything} - {name for (name,) in free}
