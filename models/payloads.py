"""The one place where a row becomes JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from .deliveries import NO_CONVERSATION, State
from .events import Event
from .reasons import explain

if TYPE_CHECKING:
    from .conversation import Conversation, Member
    from .device import Device, Session
    from .message import Message
    from .notification import Delivery, PushCursor
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
    push_content: str = ""
    last_message: MessagePayload | None = None
    other: UserPayload | None = None


class MessagePage(msgspec.Struct, kw_only=True):
    """Part of a history, oldest first; ``users`` are the senders in it, by id."""

    messages: list[MessagePayload]
    users: dict[UUID, UserPayload]
    has_more: bool


class ConversationPage(msgspec.Struct, kw_only=True):
    """Part of a user's conversations; ``total_unread`` is of all that are not muted."""

    conversations: list[ConversationPayload]
    next_cursor: str | None
    total_unread: int


class QuietHours(msgspec.Struct, kw_only=True):
    """The hours in which nothing wakes a user's phones, by the clock of a time zone: ``22:00`` to ``07:00``."""

    start: str = msgspec.field(name="from")
    until: str
    time_zone: str


class MePayload(msgspec.Struct, kw_only=True):
    """A user as they see themselves."""

    id: UUID
    name: str
    email: str | None
    external_id: str | None
    data: Any
    created_at: datetime
    quiet_hours: QuietHours | None = None
    wants_summaries: bool = True


class UserPage(msgspec.Struct, kw_only=True):
    users: list[UserPayload]


class MemberPayload(msgspec.Struct, kw_only=True):
    """Somebody in a conversation."""

    user: UserPayload
    role: str
    joined_at: datetime
    read_seq: int
    delivered_seq: int


class MemberPage(msgspec.Struct, kw_only=True):
    members: list[MemberPayload]
    next_cursor: str | None


class FeedPayload(msgspec.Struct, kw_only=True):
    """A feed as anyone sees it."""

    id: UUID
    title: str
    data: Any
    channel: str
    followers: int
    is_followed: bool
    created_at: datetime


class FeedPage(msgspec.Struct, kw_only=True):
    feeds: list[FeedPayload]
    next_cursor: str | None


class DevicePayload(msgspec.Struct, kw_only=True):
    """An installed app; of its push target and its key only whether it has one."""

    id: UUID
    platform: str
    name: str
    push_provider: str
    target_kind: str
    has_target: bool
    has_voip_target: bool
    push_content: str
    has_push_key: bool
    locale: str
    app_version: str
    created_at: datetime
    last_seen_at: datetime


class DevicePage(msgspec.Struct, kw_only=True):
    devices: list[DevicePayload]


class SessionPayload(msgspec.Struct, kw_only=True):
    """One log-in."""

    id: UUID
    device: DevicePayload
    created_at: datetime
    expires_at: datetime
    is_current: bool


class SessionPage(msgspec.Struct, kw_only=True):
    sessions: list[SessionPayload]


class PushTry(msgspec.Struct, kw_only=True):
    """One try to hand a push to its provider; ``code`` is how it ended, ``ms`` how long it took."""

    at: datetime
    code: str
    ms: int


class PushPayload(msgspec.Struct, kw_only=True):
    """
    What became of one push, for the user of its device: nothing in it says where the device's pushes go.

    ``state`` is waiting, sent, dropped or dead. Waiting means until ``not_before``.
    """

    push_id: UUID
    device: UUID
    conversations: list[UUID]
    kind: str
    state: str
    reason: str
    explanation: str
    provider: str
    answer: str
    tries: list[PushTry]
    not_before: datetime | None
    finished_at: datetime | None
    received_at: datetime | None
    displayed_at: datetime | None
    opened_at: datetime | None


class DevicePushes(msgspec.Struct, kw_only=True):
    """
    Whether a device was told of a message.

    ``decision`` is sent, waiting, dropped, dead or not_planned; ``push_id`` is of the push that it is about, if one was
    made, and ``pushes`` are all that told of the message, the first one first.
    """

    device: UUID
    name: str
    platform: str
    decision: str
    reason: str
    explanation: str
    push_id: UUID | None
    not_before: datetime | None
    pushes: list[PushPayload]


class MessagePushes(msgspec.Struct, kw_only=True):
    """What became of a message's pushes, on each device of who asks."""

    message: UUID
    devices: list[DevicePushes]


class SyncedEvent(msgspec.Struct, kw_only=True):
    """One publication that was missed; ``data`` is what the websocket would have brought."""

    channel: str
    offset: int
    data: msgspec.Raw


class BackendConversation(msgspec.Struct, kw_only=True):
    """A conversation as the app's own backend sees it: nobody's in particular."""

    id: UUID
    external_id: str | None
    kind: str
    title: str
    data: Any
    channel: str
    member_count: int
    created_at: datetime


class SyncPage(msgspec.Struct, kw_only=True):
    """
    What changed since a cursor.

    With ``reset`` the cursor was too old, of another epoch, or missing: load everything afresh, then go on from
    ``cursor``.
    ``conversations`` are those whose own state (cursors, settings, title, newest message) changed, as they are now.
    """

    events: list[SyncedEvent]
    conversations: list[ConversationPayload]
    cursor: str
    has_more: bool
    reset: bool = False


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


def me(row: User) -> MePayload:
    """Show a user to themselves."""
    return MePayload(
        id=row.id,
        name=row.name,
        email=row.email,
        external_id=row.external_id,
        data=row.data,
        created_at=row.created_at,
        quiet_hours=_quiet_hours(row),
        wants_summaries=row.wants_summaries,
    )


def _quiet_hours(row: User) -> QuietHours | None:
    if row.quiet_from is None or row.quiet_until is None:
        return None
    return QuietHours(start=f"{row.quiet_from:%H:%M}", until=f"{row.quiet_until:%H:%M}", time_zone=row.time_zone)


def member(row: Member) -> MemberPayload:
    """Show somebody in a conversation; the row comes with its user."""
    return MemberPayload(
        user=user(row.user),
        role=row.role,
        joined_at=row.joined_at,
        read_seq=row.read_seq,
        delivered_seq=row.delivered_seq,
    )


def feed(row: Conversation, *, is_followed: bool) -> FeedPayload:
    """Show a feed to anyone."""
    return FeedPayload(
        id=row.id,
        title=row.title,
        data=row.data,
        channel=row.channel,
        followers=row.member_count,
        is_followed=is_followed,
        created_at=row.created_at,
    )


def device(row: Device) -> DevicePayload:
    """Show a device to its user."""
    return DevicePayload(
        id=row.id,
        platform=row.platform,
        name=row.name,
        push_provider=row.push_provider,
        target_kind=row.target_kind,
        has_target=bool(row.target),
        has_voip_target=bool(row.voip_target),
        push_content=row.push_content,
        has_push_key=bool(row.push_key),
        locale=row.locale,
        app_version=row.app_version,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
    )


def session(row: Session, *, is_current: bool) -> SessionPayload:
    """Show a session to its user; the row comes with its device."""
    return SessionPayload(
        id=row.id,
        device=device(row.device),
        created_at=row.created_at,
        expires_at=row.expires_at,
        is_current=is_current,
    )


def push(rows: Sequence[Delivery], waiting: PushCursor | None = None) -> PushPayload:
    """Show a push, which has a row for each conversation that it told of, and what waits for its next try, if any."""
    row = rows[0]
    state, reason = State(row.state), row.reason
    if state is State.PENDING and waiting is None:
        # What nobody will try any more has been given up.
        state, reason = State.DROPPED, "expired"
    return PushPayload(
        push_id=row.push_id,
        device=row.device_id,
        conversations=[row.conversation_id for row in rows if row.conversation_id != NO_CONVERSATION],
        kind=row.kind,
        state="waiting" if state is State.PENDING else state.value,
        reason=reason,
        explanation=explain(reason, state),
        provider=row.provider,
        answer=row.answer,
        tries=msgspec.convert(row.tries, list[PushTry]),
        not_before=waiting.not_before if waiting and state is State.PENDING else None,
        finished_at=row.finished_at,
        received_at=row.received_at,
        displayed_at=row.displayed_at,
        opened_at=row.opened_at,
    )


def about_message(kind: str, message_json: bytes) -> bytes:
    """Wrap a message that is JSON already in its event: the same bytes as ``MessageEvent``, without encoding again."""
    return b'{"type":"%b","message":%b}' % (kind.encode(), message_json)


_encoder = msgspec.json.Encoder()


def to_json(value: object) -> bytes:
    """Encode a payload; UUIDs as text, times in ISO 8601 with their zone (``Z``)."""
    return _encoder.encode(value)
