"""The one place where a row becomes JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from .events import Event

if TYPE_CHECKING:
    from .message import Message
    from .user import User


class UserPayload(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: UUID
    name: str
    external_id: str | None = None
    data: Any = None
    deleted: bool = False


class MessagePayload(msgspec.Struct, kw_only=True):
    """A message as clients see it; a deleted one has neither text nor data."""

    id: UUID
    conversation: UUID
    seq: int
    kind: str
    sender: UUID | None
    client_id: str
    text: str | None
    data: Any
    mentions: list[UUID]
    reply_to: UUID | None
    created_at: datetime
    edited_at: datetime | None = None
    deleted_at: datetime | None = None


class ConversationPayload(msgspec.Struct, kw_only=True):
    """A conversation as one of its members sees it."""

    id: UUID
    kind: str
    title: str
    data: Any
    created_at: datetime
    member_count: int
    channel: str
    top_seq: int
    role: str | None
    joined_seq: int
    read_seq: int
    delivered_seq: int
    unread: int
    muted_until: datetime | None
    notification_level: str
    is_hidden: bool
    last_message: MessagePayload | None = None
    other: UserPayload | None = None


class MessagePage(msgspec.Struct, kw_only=True):
    """Part of a history, oldest first; ``users`` are the senders in it, by id."""

    messages: list[MessagePayload]
    users: dict[UUID, UserPayload]
    has_more: bool


class MessageEvent(Event, frozen=True, kw_only=True):
    """Something about a message, as it is now: kept as a reference to its row, never as a copy."""

    message: MessagePayload


class MessageSent(MessageEvent, frozen=True, kw_only=True, tag="message.sent"):
    pass


class MessageEdited(MessageEvent, frozen=True, kw_only=True, tag="message.edited"):
    pass


class MessageDeleted(MessageEvent, frozen=True, kw_only=True, tag="message.deleted"):
    """``message`` is its tombstone."""


def message(row: Message) -> MessagePayload:
    """Show a message; what is deleted has lost its content already, in the row."""
    return MessagePayload(
        id=row.id,
        conversation=row.conversation_id,
        seq=row.seq,
        kind=row.kind,
        sender=row.sender_id,
        client_id=row.client_id,
        text=row.text,
        data=row.data,
        mentions=row.mentions,
        reply_to=row.reply_to,
        created_at=row.created_at,
        edited_at=row.edited_at,
        deleted_at=row.deleted_at,
    )


def user(row: User) -> UserPayload:
    """Show a person to others."""
    return UserPayload(id=row.id, name=row.name, external_id=row.external_id, data=row.data)


def deleted_user(user_id: UUID) -> UserPayload:
    """Show somebody who deleted the account, or never had one, where only the id is left."""
    return UserPayload(id=user_id, name="Deleted user", deleted=True)


def about_message(kind: str, message_json: bytes) -> bytes:
    """Wrap a message that is JSON already in its event: the same bytes as ``MessageEvent``, without encoding again."""
    return b'{"type":"%b","message":%b}' % (kind.encode(), message_json)


_encoder = msgspec.json.Encoder()


def to_json(value: object) -> bytes:
    """Encode a payload; UUIDs as text, times in ISO 8601 with their zone (``Z``)."""
    return _encoder.encode(value)
