"""Sending, editing and deleting messages, and saying that one is typing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone
from msgspec import UNSET, UnsetType, json

from .. import batch, events, limits, payloads, streams
from ..conversation import Conversation, Member
from ..deliveries import Occasion
from ..drafts import MessageDraft, PreparedMessage, StoredMessage, check_content, prepare
from ..errors import ConversationNotFound, DirectBlocked, DomainError, MessageDeleted, MessageNotFound, NotTheSender
from ..events import Publication
from ..ids import new_id
from ..message import Message
from ..notification import Notification
from ..user import Block


def send_message(
    *,
    actor: UUID,
    conversation_id: UUID,
    client_id: str,
    text: str | None = None,
    data: Any = None,
    mentions: Sequence[UUID] = (),
    reply_to: UUID | None = None,
    kind: str = "text",
    device: UUID | None = None,
) -> StoredMessage:
    """
    Send a message from synchronous code: a batch of one through the writer's own statements.

    The same ``client_id`` again returns the message that was stored first, whatever the text.

    Raises:
        InvalidInput: the content or the ``client_id`` is not acceptable.
        ConversationNotFound: it does not exist, or not for ``actor``.
        PostingNotAllowed: it is a feed, and ``actor`` is not one of its admins.
        DirectBlocked: one of the two has blocked the other.
        ReplyTargetGone: ``reply_to`` is no message of this conversation.
    """
    draft = MessageDraft(
        sender=actor,
        sender_device=device,
        conversation=conversation_id,
        client_id=client_id,
        text=text,
        data=data,
        mentions=tuple(mentions),
        reply_to=reply_to,
        kind=kind,
    )
    prepared = prepare(draft)
    with transaction.atomic():
        answer, publication = _store(prepared)
        if isinstance(answer, DomainError):
            raise answer
        if publication:
            streams.hand_over([publication])
    return answer


@transaction.atomic
def edit_message(
    *,
    actor: UUID,
    message_id: UUID,
    text: str | UnsetType | None = UNSET,
    data: Any = UNSET,
    mentions: Sequence[UUID] | UnsetType = UNSET,
) -> payloads.MessagePayload:
    """
    Change what a message says; what is not given stays. The same edit again changes nothing.

    Raises:
        MessageNotFound: it does not exist, or not for ``actor``.
        NotTheSender: somebody else wrote it.
        MessageDeleted: there is nothing left to edit.
        DirectBlocked: one of the two has blocked the other.
        InvalidInput: the content is not acceptable.
    """
    message, _ = _lock_message(actor, message_id)
    if message.sender_id != actor:
        raise NotTheSender
    if message.deleted_at:
        raise MessageDeleted
    if _is_blocked(message.conversation):
        raise DirectBlocked

    before = (message.text, message.data, message.mentions)
    if mentions is not UNSET:
        message.mentions = _members_among(message.conversation_id, mentions)
    new_text, new_data = check_content(
        message.text if text is UNSET else text,
        message.data if data is UNSET else data,
        () if mentions is UNSET else mentions,
    )
    message.text = new_text or None
    message.data = json.decode(new_data) if new_data else None
    if (message.text, message.data, message.mentions) != before:
        message.edited_at = timezone.now()
        message.save(update_fields=["text", "data", "mentions", "edited_at"])
        streams.append_message(message, payloads.MessageEdited)
        _show_anew(message)
    return payloads.message(message)


@transaction.atomic
def delete_message(*, actor: UUID, message_id: UUID) -> payloads.MessagePayload:
    """
    Turn a message into a tombstone, for everyone; its content is gone from the database. Again, it changes nothing.

    Raises:
        MessageNotFound: it does not exist, or not for ``actor``.
        NotTheSender: somebody else wrote it, and ``actor`` is no admin of the group or feed.
    """
    message, member = _lock_message(actor, message_id)
    is_moderator = message.conversation.kind != "direct" and member.role in ("owner", "admin")
    if message.sender_id != actor and not is_moderator:
        raise NotTheSender

    if message.deleted_at is None:
        message.text, message.data, message.mentions = None, None, []
        message.deleted_at = timezone.now()
        message.save(update_fields=["text", "data", "mentions", "deleted_at"])
        streams.append_message(message, payloads.MessageDeleted)
        _show_anew(message)
    return payloads.message(message)


def typing(*, actor: UUID, conversation_id: UUID, is_typing: bool) -> None:
    """
    Tell whoever is listening that somebody is typing, or has stopped; kept nowhere, and expires by itself.

    Feeds and large groups hear nothing of it, nor does somebody who has blocked, or is blocked by, the other.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
    """
    conversation = Conversation.objects.filter(id=conversation_id, members__user=actor).first()
    if conversation is None:
        raise ConversationNotFound
    if conversation.kind == "feed" or conversation.member_count > limits.MAX_MEMBERS_FOR_HINTS:
        return
    if _is_blocked(conversation):
        return
    streams.hint(
        conversation.channel,
        events.TypingStarted(conversation=conversation_id, user=actor, expires_in=limits.TYPING_SECONDS)
        if is_typing
        else events.TypingStopped(conversation=conversation_id, user=actor),
    )


def _store(message: PreparedMessage) -> tuple[StoredMessage | DomainError, Publication | None]:
    # The writer's statements take binary parameters, which Django's own cursors do not; the transaction is Django's.
    with psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(batch.LOCK, (new_id(), [message.conversation]), binary=True)
        locked = {row[0]: batch.Locked(*row) for row in cursor.fetchall()}
        cursor.execute(batch.APPEND, batch.message_columns([message]), binary=True)
        (row,) = cursor.fetchall()
    return batch.judged_message(message, batch.Verdict(*row), locked)


def _show_anew(message: Message) -> None:
    """Let the notifications follow that show this message."""
    Notification.objects.create(
        occasion=Occasion.REVISED.value,
        conversation_id=message.conversation_id,
        message_id=message.id,
        seq=message.seq,
        sender_id=message.sender_id,
    )


def _lock_message(actor: UUID, message_id: UUID) -> tuple[Message, Member]:
    """Lock a message's stream, and load the message through the membership: what one cannot see does not exist."""
    visible = Member.objects.filter(
        Q(conversation__messages__id=message_id),
        Q(joined_seq__lt=F("conversation__messages__seq")) | Q(conversation__shows_history_to_new_members=True),
        user=actor,
    )
    found = visible.select_related("conversation").first()
    if found is None:
        raise MessageNotFound
    streams.lock([found.conversation.channel])
    # Read again: what was decided before the lock may be history.
    member = visible.first()
    message = Message.objects.select_related("conversation").filter(id=message_id).first()
    if member is None or message is None:
        raise MessageNotFound
    return message, member


def _is_blocked(conversation: Conversation) -> bool:
    if conversation.kind != "direct":
        return False
    pair = (conversation.direct_low, conversation.direct_high)
    return Block.objects.filter(blocker__in=pair, blocked__in=pair).exists()


def _members_among(conversation_id: UUID, users: Sequence[UUID]) -> list[UUID]:
    members = set(Member.objects.filter(conversation=conversation_id, user__in=users).values_list("user_id", flat=True))
    return [user for user in dict.fromkeys(users) if user in members]
