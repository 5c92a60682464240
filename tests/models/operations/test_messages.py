"""Sending, editing, deleting and reading messages, from synchronous code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Model

from models import errors, limits, streams
from models.conversation import Conversation, Member
from models.events import Publication
from models.ids import new_id
from models.message import Message
from models.operations import messages
from models.queries import messages as queries
from models.queries import streams as stream_queries
from models.user import Block, User
from tests.models.scene import make_conversation, make_person

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard() -> Iterator[list[Publication]]:
    publications: list[Publication] = []
    forget = streams.on_publish(publications.extend)
    yield publications
    forget()


@pytest.fixture
def alice() -> User:
    return make_person("Alice")


@pytest.fixture
def bob() -> User:
    return make_person("Bob")


@pytest.fixture
def conversation(alice: User, bob: User) -> Conversation:
    return make_conversation(alice, bob)


def send(actor: User, conversation: Conversation, text: str = "hello", **fields: Any) -> Message:
    fields = {"client_id": str(new_id()), **fields}
    stored = messages.send_message(actor=actor.id, conversation_id=conversation.id, text=text, **fields)
    return Message.objects.get(id=stored.id)


def event(publication: Publication) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(publication.data)
    return decoded


def rendered(conversation: Conversation) -> list[dict[str, Any]]:
    """The stream as somebody reads it who was away."""
    found = stream_queries.history(conversation.channel)
    assert found is not None
    return [event(publication) for publication in found[0]]


def test_sent_message_is_published_after_the_commit(alice: User, conversation: Conversation, heard: list[Publication]):
    message = send(alice, conversation, data={"a": 1})

    assert (heard[0].channel, heard[0].offset, heard[0].kind) == (conversation.channel, 1, "message.sent")
    assert event(heard[0])["message"]["id"] == str(message.id)
    assert rendered(conversation) == [event(heard[0])]


def test_repeated_send_returns_the_first_message(alice: User, conversation: Conversation, heard: list[Publication]):
    first = messages.send_message(actor=alice.id, conversation_id=conversation.id, client_id="x", text="one")
    again = messages.send_message(actor=alice.id, conversation_id=conversation.id, client_id="x", text="two")

    assert (again.id, again.seq, again.created_at, again.duplicate) == (first.id, 1, first.created_at, True)
    assert len(heard) == 1


def test_refused_send_leaves_nothing(bob: User, conversation: Conversation):
    with pytest.raises(errors.ConversationNotFound):
        messages.send_message(actor=new_id(), conversation_id=conversation.id, client_id="x", text="x")

    assert not Message.objects.exists()


def test_edit_changes_what_is_given_and_is_published_once(
    alice: User, bob: User, conversation: Conversation, heard: list[Publication]
):
    message = send(alice, conversation, "before", data={"a": 1})

    for _ in range(2):
        edited = messages.edit_message(actor=alice.id, message_id=message.id, text="after", mentions=[bob.id, new_id()])

    assert (edited.text, edited.data, edited.mentions, edited.seq) == ("after", {"a": 1}, [bob.id], 1)
    assert edited.edited_at is not None
    assert [(p.kind, p.offset) for p in heard] == [("message.sent", 1), ("message.edited", 2)]
    assert event(heard[1])["message"]["text"] == "after"
    # Whoever was away reads the present text from both; the stream itself holds none.
    assert [e["message"]["text"] for e in rendered(conversation)] == ["after", "after"]


def test_edit_is_refused_to_others(alice: User, bob: User, conversation: Conversation):
    message = send(alice, conversation)

    with pytest.raises(errors.NotTheSender):
        messages.edit_message(actor=bob.id, message_id=message.id, text="x")
    with pytest.raises(errors.MessageNotFound):
        messages.edit_message(actor=new_id(), message_id=message.id, text="x")
    with pytest.raises(errors.MessageNotFound):
        messages.edit_message(actor=alice.id, message_id=new_id(), text="x")
    with pytest.raises(errors.EmptyMessage):
        messages.edit_message(actor=alice.id, message_id=message.id, text=None)
    messages.delete_message(actor=alice.id, message_id=message.id)
    with pytest.raises(errors.MessageDeleted):
        messages.edit_message(actor=alice.id, message_id=message.id, text="x")


def test_blocked_people_reach_each_other_neither_by_edits_nor_by_typing(
    alice: User, bob: User, heard: list[Publication]
):
    direct = make_conversation(alice, bob, kind="direct")
    message = send(alice, direct)
    Block.objects.create(blocker=bob, blocked=alice)

    with pytest.raises(errors.DirectBlocked):
        messages.edit_message(actor=alice.id, message_id=message.id, text="x")
    messages.typing(actor=alice.id, conversation_id=direct.id, is_typing=True)

    assert len(heard) == 1


def test_deleted_text_is_gone_from_every_table(alice: User, conversation: Conversation, heard: list[Publication]):
    message = send(alice, conversation, "the secret word", data={"also": "the secret word"})
    messages.edit_message(actor=alice.id, message_id=message.id, text="another secret word")

    for _ in range(2):
        tombstone = messages.delete_message(actor=alice.id, message_id=message.id)

    assert (tombstone.text, tombstone.data, tombstone.mentions, tombstone.seq) == (None, None, [], 1)
    assert [p.kind for p in heard] == ["message.sent", "message.edited", "message.deleted"]
    assert "secret" not in heard[2].data.decode()
    assert [e["message"]["text"] for e in rendered(conversation)] == [None, None, None]
    for table in apps.get_app_config("messaging").get_models():
        assert "secret" not in _dump(table), table


def _dump(table: type[Model]) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT string_agg(t::text, chr(10)) FROM "{table._meta.db_table}" t')
        return cursor.fetchone()[0] or ""


def test_admins_delete_in_groups_but_not_in_direct_conversations(alice: User, bob: User, conversation: Conversation):
    direct = make_conversation(alice, bob, kind="direct")

    with pytest.raises(errors.NotTheSender):
        messages.delete_message(actor=bob.id, message_id=send(alice, conversation).id)
    with pytest.raises(errors.NotTheSender):
        messages.delete_message(actor=alice.id, message_id=send(bob, direct).id)
    moderated = messages.delete_message(actor=alice.id, message_id=send(bob, conversation).id)

    assert moderated.deleted_at is not None


def test_what_was_before_ones_joining_does_not_exist(alice: User, bob: User, conversation: Conversation):
    old = send(alice, conversation)
    Member.objects.filter(user=alice).update(joined_seq=old.seq)
    new = send(alice, conversation)

    with pytest.raises(errors.MessageNotFound):
        messages.delete_message(actor=alice.id, message_id=old.id)
    with pytest.raises(errors.MessageNotFound):
        queries.get_message(actor=alice.id, message_id=old.id)
    page = queries.history(actor=alice.id, conversation_id=conversation.id)
    assert [message.id for message in page.messages] == [new.id]
    assert queries.get_message(actor=bob.id, message_id=old.id).id == old.id

    Conversation.objects.update(shows_history_to_new_members=True)
    assert len(queries.history(actor=alice.id, conversation_id=conversation.id).messages) == 2


def test_typing_is_a_hint_for_small_conversations(alice: User, conversation: Conversation, heard: list[Publication]):
    messages.typing(actor=alice.id, conversation_id=conversation.id, is_typing=True)
    messages.typing(actor=alice.id, conversation_id=conversation.id, is_typing=False)
    Conversation.objects.update(member_count=limits.MAX_MEMBERS_FOR_HINTS + 1)
    messages.typing(actor=alice.id, conversation_id=conversation.id, is_typing=True)

    about = {"conversation": str(conversation.id), "user": str(alice.id)}
    assert [event(p) for p in heard] == [
        {"type": "typing.started", **about, "expires_in": limits.TYPING_SECONDS},
        {"type": "typing.stopped", **about},
    ]
    assert {p.offset for p in heard} == {0}
    with pytest.raises(errors.ConversationNotFound):
        messages.typing(actor=new_id(), conversation_id=conversation.id, is_typing=True)


def test_history_comes_in_pages_with_its_senders(alice: User, bob: User, conversation: Conversation):
    for n in range(7):
        send(alice if n % 2 else bob, conversation, str(n))
    Member.objects.filter(user=bob).delete()
    gone = bob.id
    bob.delete()

    def page(**where: int) -> tuple[list[int], bool]:
        found = queries.history(actor=alice.id, conversation_id=conversation.id, **where)
        return [message.seq for message in found.messages], found.has_more

    assert page() == ([1, 2, 3, 4, 5, 6, 7], False)
    assert page(limit=3) == ([5, 6, 7], True)
    assert page(limit=3, before=5) == ([2, 3, 4], True)
    assert page(limit=3, before=2) == ([1], False)
    assert page(limit=3, after=0) == ([1, 2, 3], True)
    assert page(limit=3, after=4) == ([5, 6, 7], False)
    assert page(before=1 << 70) == ([1, 2, 3, 4, 5, 6, 7], False)
    users = queries.history(actor=alice.id, conversation_id=conversation.id).users
    assert {id: user.name for id, user in users.items()} == {alice.id: "Alice", gone: "Deleted user"}


def test_history_is_refused_to_strangers_with_the_same_number_of_statements(
    conversation: Conversation, django_assert_num_queries: Any
):
    for place in (conversation.id, new_id()):
        with django_assert_num_queries(2), pytest.raises(errors.ConversationNotFound):
            queries.history(actor=new_id(), conversation_id=place)


def test_feeds_are_read_by_everyone(alice: User):
    feed = make_conversation(alice, kind="feed")
    post = send(alice, feed)

    assert [m.id for m in queries.history(actor=new_id(), conversation_id=feed.id).messages] == [post.id]
    assert queries.get_message(actor=new_id(), message_id=post.id).id == post.id
