"""The one place where a row becomes JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from .events import Event


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


class MessageSent(Event, frozen=True, kw_only=True, tag="message.sent"):
    message: MessagePayload


class MessageEdited(Event, frozen=True, kw_only=True, tag="message.edited"):
    message: MessagePayload


class MessageDeleted(Event, frozen=True, kw_only=True, tag="message.deleted"):
    """``message`` is its tombstone."""

    message: MessagePayload


_encoder = msgspec.json.Encoder()


def to_json(value: object) -> bytes:
    """Encode a payload; UUIDs as text, times in ISO 8601 with their zone (``Z``)."""
    return _encoder.encode(value)
