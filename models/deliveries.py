"""Values that travel between the push outbox and whoever works it off; no I/O, no Django."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    SENT = "sent"
    # Not wanted any more, or nowhere to go: the reason says which.
    DROPPED = "dropped"
    # The provider will never take it.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class DueNotification:
    """A row of the outbox that has been claimed for planning."""

    id: UUID
    conversation_id: UUID
    created_at: datetime
    member_count: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """
    A device of somebody whom a notification concerns. ``provider`` is empty for the deployment's default.

    Devices that cannot be woken are listed as well: that one of them is in use delays the pushes to the others.
    """

    notification_id: UUID
    user_id: UUID
    device_id: UUID
    provider: str
    has_target: bool
    was_just_seen: bool


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A recipient and when it is due."""

    id: UUID
    recipient: Recipient
    provider: str
    not_before: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DueDelivery:
    """
    A claimed delivery with everything that decides about it, read in one snapshot after the claim.

    What belongs to a row that is gone is None. ``now`` is the database's clock, which all workers share.
    """

    id: UUID
    attempts: int
    leased_until: datetime
    expires_at: datetime
    provider: str
    now: datetime

    conversation_id: UUID
    conversation_kind: str | None
    conversation_title: str | None
    message_id: UUID
    seq: int
    message_kind: str | None
    text: str | None
    message_deleted_at: datetime | None
    is_mentioned: bool
    sender_id: UUID | None
    sender_name: str | None
    is_sender_blocked: bool

    user_id: UUID
    is_user_active: bool
    joined_seq: int | None
    read_seq: int | None
    muted_until: datetime | None
    notification_level: str | None

    device_id: UUID
    device_user_id: UUID | None
    device_platform: str
    device_provider: str
    is_session_revoked: bool
    target_kind: str
    # A secret: whoever has it can write to that phone.
    target: str = field(repr=False)
    delivered_seq: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    What became of a claimed delivery.

    Pending again means: after ``delay_seconds``, if the claim still holds. ``gone_target`` is the target that the
    provider does not know any more, since ``gone_at`` if it said that; ``provider`` is the queue to move to. An attempt
    that never reached the provider ``counts`` not.
    """

    delivery: DueDelivery
    state: State
    reason: str = ""
    delay_seconds: float = 0.0
    counts: bool = True
    provider: str | None = None
    gone_target: str | None = field(default=None, repr=False)
    gone_at: datetime | None = None
