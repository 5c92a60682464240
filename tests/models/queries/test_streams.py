"""Reading streams: all of what was missed or nothing, and whatever no snapshot has seen."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
import psycopg
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from models import channels, streams
from models.conversation import Conversation
from models.events import Publication, UserChanged
from models.ids import new_id
from models.operations import messages
from models.queries.streams import (
    Position,
    gaps,
    history,
    read_positions,
    recover,
    unseen,
)
from models.stream import Publication as Row
from tests.models.scene import dsn, make_conversation

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sender() -> UUID:
    return new_id()


@pytest.fixture
def conversation(sender: UUID) -> Conversation:
    return make_conversation(sender, new_id())


def send(conversation: Conversation, sender: UUID, *texts: str) -> None:
    for text in texts:
        messages.send_message(actor=sender, conversation_id=conversation.id, client_id=str(new_id()), text=text)


def append(channel: str, count: int = 1) -> None:
    with transaction.atomic():
        streams.lock([channel])
        for _ in range(count):
            streams.append(channel, UserChanged(user=new_id()))


def texts(publications: Sequence[Publication] | None) -> list[str | None]:
    assert publications is not None
    return [msgspec.json.decode(p.data)["message"]["text"] for p in publications]


def epoch_of(channel: str) -> str:
    return read_positions([channel])[channel].epoch


def recover_one(channel: str, offset: int, epoch: str, **options: int) -> list[int] | None:
    publications = recover([(channel, offset, epoch)], **options)[channel].publications
    return None if publications is None else [p.offset for p in publications]


# --- positions


def test_positions_of_channels_that_never_had_a_publication_stay():
    names = [channels.personal(new_id()), "news:today"]

    first = read_positions(names)

    assert first == read_positions(names)
    assert all(position.epoch and position.top == 0 for position in first.values())
    assert read_positions([channels.chat(new_id())]) == {}


# --- recovery


def test_recovers_what_came_after_the_position(conversation: Conversation, sender: UUID):
    send(conversation, sender, *"abcd")
    epoch = epoch_of(conversation.channel)

    found = recover([(conversation.channel, 2, epoch)])[conversation.channel]

    assert found.position == Position(epoch, 4)
    assert texts(found.publications) == ["c", "d"]
    assert recover_one(conversation.channel, 4, epoch) == []
    assert recover_one(conversation.channel, 0, "") == [1, 2, 3, 4]


def test_does_not_recover_what_cannot_be_told_completely(conversation: Conversation, sender: UUID):
    send(conversation, sender, *"abcdef")
    channel, epoch = conversation.channel, epoch_of(conversation.channel)

    assert recover_one(channel, 2, "_") is None
    assert recover_one(channel, 2, epoch + "x") is None
    assert recover_one(channel, 7, epoch) is None
    assert recover_one(channel, 2, epoch, limit=3) is None
    assert recover_one(channel, 3, epoch, limit=3) == [4, 5, 6]
    assert recover_one(channel, 3, epoch, max_bytes=500) is None
    assert recover([(channel, 2, epoch)], floors={channel: 3})[channel].publications is None
    assert recover([(channel, 3, epoch)], floors={channel: 3})[channel].publications is not None
    Row.objects.filter(offset__lte=3).delete()
    assert recover_one(channel, 2, epoch) is None
    assert recover_one(channel, 3, epoch) == [4, 5, 6]
    Row.objects.filter(offset=6).delete()
    assert recover_one(channel, 3, epoch) is None
    Row.objects.all().delete()
    assert recover_one(channel, 6, epoch) == []
    assert recover_one(channel, 5, epoch) is None


def test_recovers_many_channels_by_two_statements():
    people = [new_id() for _ in range(5)]
    names = [channels.personal(person) for person in people]
    for count, name in enumerate(names):
        append(name, count + 1)

    with CaptureQueriesContext(connection) as queries:
        found = recover([(name, 1, "") for name in names])

    assert len(queries) == 2
    assert [len(found[name].publications or []) for name in names] == [0, 1, 2, 3, 4]


def test_bytes_are_shared_by_the_channels_in_their_order(sender: UUID):
    conversations = [make_conversation(sender) for _ in range(3)]
    for conversation in conversations:
        send(conversation, sender, "x" * 1000, "x" * 1000)

    found = recover([(c.channel, 0, "") for c in conversations], max_bytes=3000)

    assert [found[c.channel].publications is not None for c in conversations] == [True, False, False]


def test_unknown_channels_are_left_out():
    assert recover([(channels.chat(new_id()), 1, "")]) == {}


def test_message_whose_row_has_expired_is_a_tombstone(conversation: Conversation, sender: UUID):
    send(conversation, sender, "gone")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM messaging_message")

    (publication,) = recover([(conversation.channel, 0, "")])[conversation.channel].publications or []

    shown = msgspec.json.decode(publication.data)["message"]
    assert (shown["seq"], shown["text"], shown["conversation"]) == (1, None, str(conversation.id))
    assert shown["deleted_at"]


# --- history


def test_history_is_read_in_both_directions(conversation: Conversation, sender: UUID):
    send(conversation, sender, *"abcde")

    def page(**where: int | bool | None) -> list[int]:
        found = history(conversation.channel, **where)  # type: ignore[arg-type]
        assert found is not None
        assert found[1].top == 5
        return [p.offset for p in found[0]]

    assert page() == [1, 2, 3, 4, 5]
    assert page(limit=0) == []
    assert page(limit=2) == [1, 2]
    assert page(limit=2, since=3) == [4, 5]
    assert page(limit=2, reverse=True) == [5, 4]
    assert page(limit=2, since=3, reverse=True) == [2, 1]
    assert page(since=9) == []
    assert page(since=9, reverse=True) == [5, 4, 3, 2, 1]
    assert page(floor_offset=3) == [4, 5]
    assert page(floor_offset=3, since=5, reverse=True) == [4]
    assert history(channels.chat(new_id())) is None


# --- gaps


def test_gaps_of_many_channels_by_one_statement():
    names = [channels.personal(new_id()) for _ in range(3)]
    for name in names:
        append(name, 6)

    with CaptureQueriesContext(connection) as queries:
        found = gaps([(names[2], 0, 2), (names[0], 3, 5), (names[1], 6, 9)])

    assert len(queries) == 1
    assert [(p.channel, p.offset) for p in found] == [(names[2], 1), (names[2], 2), (names[0], 4), (names[0], 5)]
    assert gaps([]) == []


# --- what is unseen


def test_unseen_tells_what_committed_since():
    channel = channels.personal(new_id())
    append(channel)
    nothing, snapshot = unseen(None)
    again, snapshot = unseen(snapshot)
    append(channel, 2)

    found, snapshot = unseen(snapshot)

    assert nothing == again == []
    assert [(p.channel, p.offset, p.epoch) for p in found] == [(channel, n, epoch_of(channel)) for n in (2, 3)]
    assert unseen(snapshot)[0] == []


def test_unseen_tells_of_a_long_transaction_once_it_commits_and_of_others_once_meanwhile():
    slow, fast = channels.personal(new_id()), channels.personal(new_id())
    streams.create(slow, fast)
    _, snapshot = unseen(None)
    with psycopg.connect(dsn()) as long:
        long.execute(
            """WITH s AS (UPDATE messaging_stream SET top = top + 1 WHERE channel = %s RETURNING id, top)
            INSERT INTO messaging_publication (stream_id, "offset", kind, data) SELECT id, top, 'x', '{}' FROM s""",
            [slow],
        )
        heard = []
        for _ in range(3):
            append(fast)
            found, snapshot = unseen(snapshot)
            heard.append([(p.channel, p.offset) for p in found])
        assert heard == [[(fast, 1)], [(fast, 2)], [(fast, 3)]]

    found, snapshot = unseen(snapshot)
    assert [(p.channel, p.offset) for p in found] == [(slow, 1)]
    assert unseen(snapshot)[0] == []


def test_unseen_leaves_out_what_is_known_already():
    known, new, strange = (channels.personal(new_id()) for _ in range(3))
    _, snapshot = unseen(None)
    for name in (known, new, strange):
        append(name, 2)

    found, _ = unseen(snapshot, {known: 2, new: 1})

    assert [(p.channel, p.offset) for p in found] == [(new, 2)]
