"""Conversations and who belongs to them: one per pair, roles, and an end that is an end."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from models import errors
from models.conversation import Conversation, Member
from models.ids import new_id
from models.message import Message
from models.notification import Notification
from models.operations import conversations, members, users
from models.queries import conversations as conversation_queries
from models.queries import members as member_queries
from models.queries import messages as message_queries
from models.stream import Publication, Stream
from tests.factories import make_direct, make_group, make_user, send

pytestmark = pytest.mark.django_db


def roles(conversation: UUID) -> dict[str, str]:
    found = Member.objects.filter(conversation=conversation).select_related("user")
    return {member.user.name: member.role for member in found}


# --- direct conversations


def test_a_direct_conversation_is_made_once_whoever_asks() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")

    first, second = make_direct(alice, bob), make_direct(bob, alice)

    assert first.id == second.id
    assert (first.other.name, second.other.name) == ("Bob", "Alice")  # type: ignore[union-attr]


@pytest.mark.django_db(transaction=True)
def test_a_direct_conversation_is_made_once_when_all_ask_at_once() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")

    def ask(number: int) -> UUID:
        one, other = (alice, bob) if number % 2 else (bob, alice)
        try:
            return make_direct(one, other).id
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(ask, range(16)))

    assert len(made) == 1
    assert Conversation.objects.count() == 1
    assert Member.objects.count() == 2


def test_nobody_talks_to_themselves_to_strangers_of_none_or_past_a_block() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    users.block(actor=bob.id, user_id=alice.id)

    with pytest.raises(errors.CannotMessageYourself):
        conversations.create_direct(actor=alice.id, user_id=alice.id)
    with pytest.raises(errors.UserNotFound):
        conversations.create_direct(actor=alice.id, user_id=new_id())
    for one, other in ((alice, bob), (bob, alice)):
        with pytest.raises(errors.DirectBlocked):
            conversations.create_direct(actor=one.id, user_id=other.id)
    assert not Conversation.objects.exists()


def test_a_block_silences_an_existing_direct_conversation_and_is_undone() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    direct = make_direct(alice, bob)
    users.block(actor=bob.id, user_id=alice.id)

    for sender in (alice, bob):
        with pytest.raises(errors.DirectBlocked):
            send(sender, direct)
    users.unblock(actor=bob.id, user_id=alice.id)

    assert send(alice, direct)


def test_a_hidden_conversation_comes_back_with_its_next_message() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    direct = make_direct(alice, bob)
    send(bob, direct, "one")

    conversations.hide(actor=alice.id, conversation_id=direct.id)
    hidden = conversation_queries.list_conversations(actor=alice.id)
    send(bob, direct, "two")
    shown = conversation_queries.list_conversations(actor=alice.id)

    assert (len(hidden.conversations), hidden.total_unread) == (0, 0)
    assert [conversation.id for conversation in shown.conversations] == [direct.id]


# --- groups


def test_admins_manage_members_and_only_owners_manage_owners() -> None:
    owner, admin, member = make_user("Owner"), make_user("Admin"), make_user("Member")
    group = make_group(owner, admin, member)

    with pytest.raises(errors.PermissionDenied):
        members.change_role(actor=admin.id, conversation_id=group.id, user_id=admin.id, role="admin")
    members.change_role(actor=owner.id, conversation_id=group.id, user_id=admin.id, role="admin")
    newcomer = make_user("Newcomer")
    members.add_member(actor=admin.id, conversation_id=group.id, user_id=newcomer.id)
    members.remove_member(actor=admin.id, conversation_id=group.id, user_id=member.id)
    with pytest.raises(errors.NotAnAdmin):
        members.remove_member(actor=admin.id, conversation_id=group.id, user_id=owner.id)
    with pytest.raises(errors.NotAnAdmin):
        members.add_member(actor=newcomer.id, conversation_id=group.id, user_id=member.id)
    with pytest.raises(errors.PermissionDenied):
        conversations.delete_conversation(actor=admin.id, conversation_id=group.id)

    assert roles(group.id) == {"Owner": "owner", "Admin": "admin", "Newcomer": "member"}


def test_adding_a_member_twice_changes_nothing() -> None:
    owner, other = make_user("Owner"), make_user("Other")
    group = make_group(owner, other)

    members.add_member(actor=owner.id, conversation_id=group.id, user_id=other.id)

    assert conversation_queries.get_conversation(actor=owner.id, conversation_id=group.id).member_count == 2
    assert Member.objects.filter(conversation=group.id).count() == 2


def test_an_owner_who_leaves_hands_the_group_on_and_the_last_takes_it_along() -> None:
    owner, first, second = make_user("Owner"), make_user("First"), make_user("Second")
    group = make_group(owner, first, second)
    members.change_role(actor=owner.id, conversation_id=group.id, user_id=second.id, role="admin")

    members.leave(actor=owner.id, conversation_id=group.id)
    after_owner = roles(group.id)
    members.leave(actor=second.id, conversation_id=group.id)
    after_second = roles(group.id)
    members.leave(actor=first.id, conversation_id=group.id)

    assert after_owner == {"First": "member", "Second": "owner"}
    assert after_second == {"First": "owner"}
    assert not Conversation.objects.filter(id=group.id).exists()


def test_for_a_former_member_the_conversation_does_not_exist() -> None:
    owner, former = make_user("Owner"), make_user("Former")
    group = make_group(owner, former)
    message = send(owner, group)
    members.remove_member(actor=owner.id, conversation_id=group.id, user_id=former.id)

    for attempt in (
        lambda: conversation_queries.get_conversation(actor=former.id, conversation_id=group.id),
        lambda: message_queries.history(actor=former.id, conversation_id=group.id),
        lambda: member_queries.list_members(actor=former.id, conversation_id=group.id),
        lambda: send(former, group),
        lambda: members.leave(actor=former.id, conversation_id=group.id),
        lambda: conversations.mute(actor=former.id, conversation_id=group.id, until=None),
    ):
        with pytest.raises(errors.ConversationNotFound):
            attempt()
    with pytest.raises(errors.MessageNotFound):
        message_queries.get_message(actor=former.id, message_id=message)
    assert conversation_queries.list_conversations(actor=former.id).conversations == []


def test_a_deleted_group_leaves_no_row() -> None:
    owner, other = make_user("Owner"), make_user("Other")
    group = make_group(owner, other)
    send(other, group, "gone with it")

    conversations.delete_conversation(actor=owner.id, conversation_id=group.id)

    assert not Conversation.objects.filter(id=group.id).exists()
    assert not Member.objects.filter(conversation=group.id).exists()
    assert not Message.objects.filter(conversation=group.id).exists()
    assert not Publication.objects.filter(stream=group.id).exists()
    assert not Stream.objects.filter(id=group.id).exists()


def test_what_happens_to_a_group_is_told_in_it() -> None:
    owner, other = make_user("Owner"), make_user("Other")
    group = make_group(owner)
    members.add_member(actor=owner.id, conversation_id=group.id, user_id=other.id)
    conversations.rename(actor=owner.id, conversation_id=group.id, title="New name")
    members.leave(actor=other.id, conversation_id=group.id)

    told = message_queries.history(actor=owner.id, conversation_id=group.id).messages

    assert [message.data["event"] for message in told] == [
        "conversation.created",
        "member.added",
        "conversation.renamed",
        "member.left",
    ]
    assert conversation_queries.get_conversation(actor=owner.id, conversation_id=group.id).unread == 0


@pytest.mark.parametrize("title", ["", "   ", "x" * 201, "nul\0"])
def test_a_title_that_does_not_fit_is_refused(title: str) -> None:
    with pytest.raises(errors.InvalidInput):
        conversations.create_group(actor=make_user().id, title=title)


# --- feeds


def test_a_feed_is_written_by_few_and_read_by_all() -> None:
    author, reader = make_user("Author"), make_user("Reader")
    feed = conversations.create_feed(actor=author.id, title="News")
    send(author, feed, "first")

    read = message_queries.history(actor=reader.id, conversation_id=feed.id)
    with pytest.raises(errors.ConversationNotFound):
        send(reader, feed)
    members.follow(actor=reader.id, conversation_id=feed.id)
    members.follow(actor=reader.id, conversation_id=feed.id)
    with pytest.raises(errors.PostingNotAllowed):
        send(reader, feed)
    send(author, feed, "second")
    followed = conversation_queries.list_conversations(actor=reader.id).conversations[0]
    members.unfollow(actor=reader.id, conversation_id=feed.id)

    assert [message.text for message in read.messages if message.kind == "text"] == ["first"]
    assert (followed.unread, followed.member_count) == (1, 2)
    assert conversation_queries.list_conversations(actor=reader.id).conversations == []


def test_a_feed_of_ten_thousand_followers_costs_its_author_one_insert() -> None:
    author = make_user("Author")
    small = conversations.create_feed(actor=author.id, title="Small")
    large = conversations.create_feed(actor=author.id, title="Large")
    Member.objects.bulk_create(
        [Member(conversation_id=large.id, user_id=new_id(), role="member") for _ in range(10_000)], batch_size=2_000
    )

    statements = []
    for feed in (small, large):
        before = Publication.objects.count(), Message.objects.count(), Notification.objects.count()
        with CaptureQueriesContext(connection) as captured:
            send(author, feed)
        after = Publication.objects.count(), Message.objects.count(), Notification.objects.count()
        statements.append(len(captured))
        assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1]

    assert statements[0] == statements[1]


# --- lists


def test_a_list_takes_the_same_number_of_statements_however_long() -> None:
    alice = make_user("Alice")
    counts = []
    for many in (2, 12):
        for _ in range(many):
            bob = make_user("Bob")
            send(bob, make_direct(alice, bob))
        with CaptureQueriesContext(connection) as captured:
            page = conversation_queries.list_conversations(actor=alice.id)
        counts.append(len(captured))

    assert len(page.conversations) == 14
    assert counts[0] == counts[1]


def test_pages_go_through_all_conversations_newest_activity_first() -> None:
    alice = make_user("Alice")
    made = []
    for number in range(7):
        bob = make_user(f"Bob {number}")
        direct = make_direct(alice, bob)
        made.append((bob, direct))
    for bob, direct in made:
        with transaction.atomic():
            send(bob, direct)

    seen: list[UUID] = []
    cursor = None
    while True:
        page = conversation_queries.list_conversations(actor=alice.id, cursor=cursor, limit=3)
        seen += [conversation.id for conversation in page.conversations]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert len(seen) == len(set(seen)) == 7
    assert set(seen) == {direct.id for _, direct in made}


def test_a_made_up_cursor_is_refused() -> None:
    with pytest.raises(errors.BadCursor):
        conversation_queries.list_conversations(actor=make_user().id, cursor="made-up")


# --- how much pushes may tell


def changes_of(conversation: UUID) -> list[str]:
    """What the channel was told of it."""
    found = Publication.objects.filter(stream_id=conversation, kind="conversation.changed").order_by("offset")
    return [json.loads(bytes(data))["push_content"] for data in found.values_list("data", flat=True)]


def test_an_admin_says_how_much_pushes_of_a_group_may_tell() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    group = make_group(alice, bob)

    answer = conversations.set_push_content(actor=alice.id, conversation_id=group.id, push_content="id_only")
    conversations.set_push_content(actor=alice.id, conversation_id=group.id, push_content="id_only")
    shown = conversation_queries.list_conversations(actor=bob.id).conversations[0]

    assert (group.push_content, answer.push_content, shown.push_content) == ("", "id_only", "id_only")
    # Again, it changes nothing.
    assert changes_of(group.id) == ["id_only"]


def test_either_of_the_two_says_it_of_a_direct_conversation() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    direct = make_direct(alice, bob)

    for person, push_content in ((alice, "encrypted"), (bob, "sender"), (alice, "")):
        conversations.set_push_content(actor=person.id, conversation_id=direct.id, push_content=push_content)

    assert changes_of(direct.id) == ["encrypted", "sender", ""]


@pytest.mark.parametrize("push_content", ["everything", "FULL", "\0", "x" * 10_000])
def test_there_is_no_other_way_to_tell(push_content: str) -> None:
    alice = make_user("Alice")
    group = make_group(alice)

    with pytest.raises(errors.InvalidInput):
        conversations.set_push_content(actor=alice.id, conversation_id=group.id, push_content=push_content)
