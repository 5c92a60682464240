"""Values that travel between the push outbox and whoever works it off; no I/O, no Django."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time
from enum import StrEnum
from typing import Any
from uuid import UUID

# Subjects of what is never merged: what follows is a name of its own.
CALL_SUBJECT = "call:"
TEST_SUBJECT = "test:"
# A test is about none.
NO_CONVERSATION = UUID(int=0)

# Conversations to take off the screen that an alert has room for, beside what it tells.
MAX_CLEARS_BESIDE = 10


class State(StrEnum):
    """Where a push stands."""

    # Tried, and to be tried again.
    PENDING = "pending"
    SENT = "sent"
    # Not wanted any more, or nowhere to go: the reason says which.
    DROPPED = "dropped"
    # The provider will never take it.
    DEAD = "dead"


class Kind(StrEnum):
    """What a push is about."""

    # New messages of one conversation.
    ALERT = "alert"
    # The same notification anew, without a sound: a message of it was edited or deleted.
    REVISION = "revision"
    # What gathered in quiet hours, of several conversations.
    SUMMARY = "summary"
    # Takes notifications off the screen, and shows none.
    CLEAR = "clear"
    # Somebody rings: short-lived, and never merged with anything.
    CALL = "call"
    # Asked for by its receiver, to see whether pushes arrive.
    TEST = "test"


class Content(StrEnum):
    """How much a push may say, the least private first."""

    FULL = "full"
    # Who wrote, and not what.
    SENDER = "sender"
    # Everything, readable with the device's own key only.
    ENCRYPTED = "encrypted"
    ID_ONLY = "id_only"


class Occasion(StrEnum):
    """Why there is a row in the outbox."""

    MESSAGE = "message"
    # A message was edited or deleted.
    REVISED = "revised"
    CALL = "call"


def kind_of_subject(subject: str) -> Kind:
    """What a push with this subject is about."""
    if subject.startswith(CALL_SUBJECT):
        return Kind.CALL
    return Kind.TEST if subject.startswith(TEST_SUBJECT) else Kind.ALERT


@dataclass(frozen=True, slots=True)
class DueNotification:
    """A row of the outbox that has been claimed for planning."""

    id: UUID
    occasion: Occasion
    conversation_id: UUID
    created_at: datetime
    payload: dict[str, Any] | None
    member_count: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """
    A device of somebody whom a notification concerns. ``provider`` is empty for the deployment's default.

    Devices that cannot be woken are listed as well: that one of them is in use delays the pushes to the others.
    """

    notification_id: UUID
    conversation_id: UUID
    seq: int
    user_id: UUID
    device_id: UUID
    provider: str
    has_target: bool
    was_just_seen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a device is to hear of: the messages of a conversation from ``first_seq`` to ``seq``."""

    device_id: UUID
    conversation_id: UUID
    user_id: UUID
    provider: str
    first_seq: int
    seq: int
    not_before: datetime
    expires_at: datetime
    # Empty for messages; what is never merged with anything has a name of its own.
    subject: str = ""
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """One message as a notification shows it."""

    message_id: UUID
    seq: int
    sender_id: UUID | None
    sender_name: str | None
    avatar: str | None
    text: str | None
    image: str | None
    is_mention: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DuePush:
    """
    A claimed cursor with everything that decides about it, read in one snapshot after the claim.

    What belongs to a row that is gone is None. ``now`` is the database's clock, which all workers share. ``previews``
    are the newest unread messages that may be shown, oldest first, and ``unread`` says how many there are.
    """

    id: UUID
    push_id: UUID
    subject: str
    payload: dict[str, Any] | None
    attempts: int
    leased_until: datetime
    expires_at: datetime
    provider: str
    now: datetime
    first_seq: int
    pending_seq: int
    sent_seq: int
    shown_seq: int
    revised_at: datetime | None
    is_deferred: bool
    pushes_in_last_minute: int
    # Since when it could have been sent, and since when there is what it tells of; for those who watch the queue.
    not_before: datetime | None = None
    message_created_at: datetime | None = None

    conversation_id: UUID
    conversation_kind: str | None
    conversation_title: str | None
    conversation_content: str
    # Of the newest message that is pending; when nothing may be shown they tell why.
    message_id: UUID | None
    message_kind: str | None
    message_deleted_at: datetime | None
    is_mentioned: bool
    is_sender_blocked: bool
    previews: tuple[Preview, ...] = ()
    unread: int = 0

    user_id: UUID
    is_user_active: bool
    time_zone: str
    quiet_from: time | None
    quiet_until: time | None
    joined_seq: int | None
    read_seq: int | None
    muted_until: datetime | None
    notification_level: str | None

    device_id: UUID
    device_user_id: UUID | None
    device_platform: str
    device_provider: str
    device_locale: str
    device_content: str
    device_seen_at: datetime | None
    is_session_revoked: bool
    target_kind: str
    # Secrets: with the first one writes to that phone, with the second one reads what is written to it.
    target: str = field(repr=False)
    device_key: bytes | None = field(repr=False)
    # Where calls go, on devices that have a target of their own for them.
    voip_target: str = field(default="", repr=False)
    delivered_seq: int | None

    # Conversations whose notifications this device should take off its screen.
    clears: tuple[UUID, ...] = ()

    @property
    def clears_beside(self) -> tuple[UUID, ...]:
        """Those of them that fit beside what this push tells of; the rest has a push of its own."""
        return tuple(one for one in self.clears if one != self.conversation_id)[:MAX_CLEARS_BESIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueClear:
    """A device that has to take notifications off its screen."""

    device_id: UUID
    user_id: UUID
    push_id: UUID
    attempts: int
    leased_until: datetime
    now: datetime
    provider: str
    device_user_id: UUID | None
    device_platform: str
    device_provider: str
    is_session_revoked: bool
    target_kind: str
    target: str = field(repr=False)
    conversations: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    What became of a claimed cursor.

    Pending again means: after ``delay_seconds``, if the claim still holds. ``seq`` is the newest message that the push
    told of. ``gone_target`` is the target that the provider does not know any more, since ``gone_at`` if it said that;
    ``provider`` is the queue to move to. An attempt that never reached the provider ``counts`` not, and a wait that is
    nobody's failure leaves no trace (``is_silent``). ``answer`` is the provider's, without anything secret.
    """

    due: DuePush
    kind: Kind
    state: State
    reason: str = ""
    seq: int = 0
    delay_seconds: float = 0.0
    defers: bool = False
    counts: bool = True
    is_silent: bool = False
    milliseconds: int = 0
    answer: str = ""
    provider: str | None = None
    gone_target: str | None = field(default=None, repr=False)
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearResult:
    """What became of a claimed clear; the same words as in ``Result``."""

    due: DueClear
    state: State
    reason: str = ""
    delay_seconds: float = 0.0
    provider: str | None = None
    gone_target: str | None = field(default=None, repr=False)
    gone_at: datetime | None = None
