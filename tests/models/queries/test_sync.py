"""``sync``: a client that applies its pages always ends with what the server has, whatever happened in between."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection, transaction
from pytest_django.fixtures import Settings

from models import errors, payloads
from models.operations import conversations, deployment, members, messages
from models.queries import messages as message_queries
from models.queries.sync import sync
from models.user import User
from tests.factories import make_direct, make_group, make_user, send

pytestmark = pytest.mark.django_db(transaction=True)


class Phone:
    """Keeps a local store as an app does: by the pages of ``sync`` alone, once it has begun."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.messages: dict[UUID, dict[str, Any]] = {}
        self.conversations: dict[UUID, payloads.ConversationPayload] = {}
        self.cursor = sync(actor=user.id).cursor
        self.resets = 0

    def sync(self, limit: int = 200) -> int:
        """Read to the end; return how many pages that took."""
        pages = 0
        while True:
            page = sync(actor=self.user.id, cursor=self.cursor, limit=limit)
            pages += 1
            self.resets += page.reset
            self.cursor = page.cursor
            for event in page.events:
                self._apply(msgspec.json.decode(event.data))
            self.conversations |= {conversation.id: conversation for conversation in page.conversations}
            if not page.has_more:
                return pages

    def _apply(self, event: dict[str, Any]) -> None:
        if message := event.get("message"):
            self.messages[UUID(message["id"])] = message
        if event["type"] == "conversation.left":
            self.conversations.pop(UUID(event["conversation"]), None)

    def texts(self, conversation: UUID) -> list[str | None]:
        own = [m for m in self.messages.values() if UUID(m["conversation"]) == conversation and m["kind"] == "text"]
        return [m["text"] for m in sorted(own, key=lambda m: m["seq"])]


def history(user: User, conversation: UUID) -> list[str | None]:
    page = message_queries.history(actor=user.id, conversation_id=conversation, limit=100)
    return [message.text for message in page.messages if message.kind == "text"]


def test_what_was_sent_edited_and_deleted_meanwhile_arrives() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    group = make_group(alice, bob).id
    kept, edited, deleted = (send(alice, group, text) for text in ("kept", "wrnog", "secret"))
    phone = Phone(bob)

    messages.edit_message(actor=alice.id, message_id=edited, text="wrong")
    messages.delete_message(actor=alice.id, message_id=deleted)
    send(alice, group, "new")
    phone.sync()

    assert phone.messages[edited]["text"] == "wrong"
    assert phone.messages[deleted]["text"] is None
    assert phone.texts(group) == ["wrong", None, "new"]
    assert kept not in phone.messages
    assert phone.conversations[group].unread == 3


def test_pages_end_and_leave_nothing_out() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    phone = Phone(bob)
    groups = [make_group(alice, bob).id for _ in range(3)]
    direct = make_direct(alice, bob).id
    for number in range(10):
        for conversation in (*groups, direct):
            send(alice, conversation, f"text {number}")

    pages = phone.sync(limit=7)

    assert pages > 5
    for conversation in (*groups, direct):
        assert phone.texts(conversation) == history(bob, conversation)
        assert len(history(bob, conversation)) == 10
    assert set(phone.conversations) == {*groups, direct}


def test_nothing_new_is_an_empty_page() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    group = make_group(alice, bob).id
    phone = Phone(bob)
    send(alice, group)
    phone.sync()

    page = sync(actor=bob.id, cursor=phone.cursor)

    assert (page.events, page.conversations, page.has_more, page.reset) == ([], [], False, False)


def test_a_commit_that_comes_late_is_not_passed_over() -> None:
    """Bob's phone looks while a message is written but not committed, and after later ones are."""
    alice, bob, carol = make_user("Alice"), make_user("Bob"), make_user("Carol")
    slow, fast = make_group(alice, bob).id, make_group(carol, bob).id
    phone = Phone(bob)
    written, looked = threading.Event(), threading.Event()

    def write_slowly() -> None:
        try:
            with transaction.atomic():
                send(alice, slow, "slow")
                written.set()
                assert looked.wait(20)
        finally:
            connection.close()

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert written.wait(20)
    send(carol, fast, "fast")
    phone.sync()
    seen_before = phone.texts(slow), phone.texts(fast)
    looked.set()
    writer.join()
    phone.sync()

    assert seen_before == ([], ["fast"])
    assert (phone.texts(slow), phone.texts(fast)) == (["slow"], ["fast"])
    assert phone.resets == 0


def test_joining_and_leaving_arrive_and_the_past_stays_closed() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    group = make_group(alice).id
    send(alice, group, "before")
    phone = Phone(bob)

    members.add_member(actor=alice.id, conversation_id=group, user_id=bob.id)
    send(alice, group, "during")
    phone.sync()
    while_member = group in phone.conversations, phone.texts(group)
    members.remove_member(actor=alice.id, conversation_id=group, user_id=bob.id)
    send(alice, group, "after")
    phone.sync()

    assert while_member == (True, ["during"])
    assert group not in phone.conversations
    assert phone.texts(group) == ["during"]


def test_changes_of_a_conversation_arrive() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    group = make_group(alice, bob).id
    phone = Phone(bob)

    conversations.rename(actor=alice.id, conversation_id=group, title="New title")
    conversations.mute(actor=bob.id, conversation_id=group, until=None, level="mentions")
    phone.sync()

    assert phone.conversations[group].title == "New title"
    assert phone.conversations[group].notification_level == "mentions"


def test_a_cursor_of_another_epoch_says_reset() -> None:
    alice = make_user("Alice")
    before = sync(actor=alice.id)

    deployment.new_epoch()
    after = sync(actor=alice.id, cursor=before.cursor)

    assert (before.reset, after.reset) == (True, True)
    assert sync(actor=alice.id, cursor=after.cursor).reset is False


def test_a_cursor_that_is_too_old_says_reset(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    alice = make_user("Alice")
    cursor = sync(actor=alice.id).cursor
    later = time.time() + (settings.ROOST.retention_days + 1) * 86_400

    monkeypatch.setattr("models.queries.sync.time.time", lambda: later)

    assert sync(actor=alice.id, cursor=cursor).reset is True


def test_a_made_up_cursor_is_refused() -> None:
    with pytest.raises(errors.BadCursor):
        sync(actor=make_user().id, cursor="made-up")


def test_others_conversations_are_not_in_it() -> None:
    alice, stranger = make_user("Alice"), make_user("Stranger")
    phone = Phone(stranger)
    send(alice, make_group(alice).id)

    phone.sync()

    assert (phone.messages, phone.conversations) == ({}, {})
