"""What connections begin with: alone, and many at once at the cost of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from models import channels, limits, streams
from models.conversation import Conversation, Member
from models.device import Session
from models.events import Publication, UserChanged
from models.ids import new_id
from models.operations import messages
from models.queries import connects
from models.queries.connects import ConnectSnapshot, Wanted, connect_snapshots
from models.queries.streams import read_positions, read_ranges
from models.stream import Stream
from tests import factories
from tests.models.scene import make_conversation

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


def connect_snapshot(user: UUID, requested: Mapping[str, tuple[int, str]]) -> ConnectSnapshot:
    (snapshot,) = connect_snapshots([Wanted(user, None, requested)])
    assert snapshot is not None
    return snapshot


def test_connection_begins_with_what_was_requested_then_with_what_was_active(
    sender: UUID, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "MAX_SUBSCRIBED_CONVERSATIONS", 3)
    conversations = [make_conversation(sender, new_id()) for _ in range(4)]
    make_conversation(new_id())
    make_conversation(sender, kind="feed")
    for conversation in conversations:
        send(conversation, sender, "a", "b")
    oldest, second, third, newest = (c.channel for c in conversations)
    strange = channels.chat(new_id())

    snapshot = connect_snapshot(sender, {oldest: (1, ""), strange: (0, ""), "#else": (0, "")})

    assert [m.channel for m in snapshot.memberships] == [oldest, newest, third]
    assert [m.channel for m in snapshot.others] == [second]
    assert not snapshot.is_cut
    assert {m.position.top for m in snapshot.memberships} == {2}
    assert (snapshot.memberships[0].role, snapshot.memberships[0].kind) == ("owner", "group")
    assert set(snapshot.recovered) == {oldest}
    assert texts(snapshot.recovered[oldest].publications) == ["b"]


def test_connection_recovers_the_personal_channel_and_makes_it_if_needed(sender: UUID):
    personal = channels.personal(sender)

    assert connect_snapshot(sender, {}).personal_position == read_positions([personal])[personal]
    append(personal, 3)
    found = connect_snapshot(sender, {personal: (1, "")})

    assert found.personal == personal
    assert found.personal_position.top == 3
    assert [p.offset for p in found.recovered[personal].publications or []] == [2, 3]


def test_connection_does_not_recover_what_was_before_ones_joining(conversation: Conversation, sender: UUID):
    send(conversation, sender, *"abcd")
    Member.objects.filter(user_id=sender).update(joined_seq=2)

    below = connect_snapshot(sender, {conversation.channel: (1, "")})
    at = connect_snapshot(sender, {conversation.channel: (2, "")})

    assert below.recovered[conversation.channel].publications is None
    assert texts(at.recovered[conversation.channel].publications) == ["c", "d"]

    Conversation.objects.update(shows_history_to_new_members=True)
    open_one = connect_snapshot(sender, {conversation.channel: (1, "")})
    assert texts(open_one.recovered[conversation.channel].publications) == ["b", "c", "d"]


def test_connection_does_not_recover_what_came_after_its_snapshot(
    conversation: Conversation, sender: UUID, monkeypatch: pytest.MonkeyPatch
):
    send(conversation, sender, "a", "b")
    found = read_ranges

    def meanwhile(*arguments: object, **options: object) -> object:
        send(conversation, sender, "late")
        return found(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("models.queries.connects.read_ranges", meanwhile)
    snapshot = connect_snapshot(sender, {conversation.channel: (1, "")})

    assert Stream.objects.get(id=conversation.id).top > 2
    assert snapshot.memberships[0].position.top == 2
    assert texts(snapshot.recovered[conversation.channel].publications) == ["b"]


def test_without_a_request_fewer_conversations_are_chosen(sender: UUID, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "INITIAL_SUBSCRIBED_CONVERSATIONS", 1)
    monkeypatch.setattr(limits, "MAX_SUBSCRIBED_CONVERSATIONS", 2)
    monkeypatch.setattr(limits, "MAX_KNOWN_CONVERSATIONS", 3)
    for _ in range(4):
        make_conversation(sender)

    initial = connect_snapshot(sender, {})
    returning = connect_snapshot(sender, {channels.chat(new_id()): (0, "")})

    assert (len(initial.memberships), len(initial.others), initial.is_cut) == (1, 2, True)
    assert (len(returning.memberships), len(returning.others), returning.is_cut) == (2, 1, True)


# --- many at once


def test_many_cost_the_queries_of_one(sender: UUID):
    others = [new_id() for _ in range(5)]
    shared = make_conversation(sender, *others)
    own = [make_conversation(other) for other in others]
    send(shared, sender, "a", "b", "c")
    for other, conversation in zip(others, own, strict=True):
        send(conversation, other, "own")
    streams.create(*(channels.personal(other) for other in others))
    wanted = [
        Wanted(other, None, {shared.channel: (1, ""), conversation.channel: (0, "")})
        for other, conversation in zip(others, own, strict=True)
    ]

    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = connect_snapshots(wanted)

    assert len(queries) == 2
    for snapshot, conversation in zip(found, own, strict=True):
        assert snapshot is not None
        assert {m.channel for m in snapshot.memberships} == {shared.channel, conversation.channel}
        assert texts(snapshot.recovered[shared.channel].publications) == ["b", "c"]
        assert texts(snapshot.recovered[conversation.channel].publications) == ["own"]
    assert found == [connect_snapshots([one])[0] for one in wanted]


def test_sessions_are_judged_each_for_itself():
    alice, bob, carol = (factories.make_user(name) for name in ("alice", "bob", "carol"))
    good, revoked, borrowed = (factories.make_session(user).session for user in (alice, bob, carol))
    Session.objects.filter(id=revoked.id).update(revoked_at="2026-01-01T00:00:00Z")

    found = connect_snapshots(
        [Wanted(alice.id, good.id), Wanted(bob.id, revoked.id), Wanted(bob.id, borrowed.id), Wanted(bob.id, new_id())]
    )

    assert [snapshot is not None for snapshot in found] == [True, False, False, False]


def test_who_does_not_fit_in_is_read_alone(sender: UUID, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connects, "MAX_BYTES_TOGETHER", 1)
    other = new_id()
    conversation = make_conversation(sender, other)
    send(conversation, sender, "a", "b")
    requested = {conversation.channel: (0, "")}

    for snapshot in connect_snapshots([Wanted(sender, None, requested), Wanted(other, None, requested)]):
        assert snapshot is not None
        assert texts(snapshot.recovered[conversation.channel].publications) == ["a", "b"]


def test_what_is_too_much_for_one_is_too_much_among_many(sender: UUID, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_RECOVERED_BYTES", 2_000)
    other = new_id()
    few, many = make_conversation(sender, other), make_conversation(sender)
    send(few, sender, "a")
    send(many, sender, *"abcdefghij")
    both = Wanted(sender, None, {few.channel: (0, ""), many.channel: (0, "")})

    first, second = connect_snapshots([both, Wanted(other, None, {few.channel: (0, "")})])

    assert first is not None
    assert second is not None
    assert texts(first.recovered[few.channel].publications) == ["a"]
    assert first.recovered[many.channel].publications is None
    assert texts(second.recovered[few.channel].publications) == ["a"]
