"""
What has happened: the values that travel from a commit to the sockets.

``Publication`` is what the relay and the hub pass on. The event structs below are payloads; msgspec writes each with
its ``type``, so that an event's class is the one place that says how it looks to clients.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One publication of a channel, ready for the wire; ``offset`` 0 marks a hint that is not kept."""

    channel: str
    data: bytes
    kind: str
    offset: int = 0
    epoch: str = ""
    subject: UUID | None = None
    ref: UUID | None = None
    info: bytes | None = None
    tags: dict[str, str] | None = None
    # Whether subscribers that can may get it as a patch on the one before.
    delta: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The base of all payloads."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    def subject_id(self) -> UUID | None:
        """The user whom every process has to act for, if any."""
        return None

    def ref_id(self) -> UUID | None:
        """The conversation or session that the effect is about, if any."""
        return None


# --- in a conversation


class MemberAdded(Event, frozen=True, kw_only=True, tag="member.added"):
    conversation: UUID
    user: UUID
    role: str
    by: UUID | None = None

    def subject_id(self) -> UUID:
        return self.user


class MemberRemoved(Event, frozen=True, kw_only=True, tag="member.removed"):
    """Ends the user's subscriptions to this conversation on every process."""

    conversation: UUID
    user: UUID
    by: UUID | None = None

    def subject_id(self) -> UUID:
        return self.user


class MemberRoleChanged(Event, frozen=True, kw_only=True, tag="member.role_changed"):
    conversation: UUID
    user: UUID
    role: str
    by: UUID | None = None


class ConversationChanged(Event, frozen=True, kw_only=True, tag="conversation.changed"):
    conversation: UUID
    title: str
    data: Any
    push_content: str = ""
    by: UUID | None = None


class ConversationDeleted(Event, frozen=True, kw_only=True, tag="conversation.deleted"):
    """Ends everyone's subscription to this conversation."""

    conversation: UUID
    by: UUID | None = None


# --- on the personal channel


class ConversationJoined(Event, frozen=True, kw_only=True, tag="conversation.joined"):
    """The user's sockets are to hear this conversation from now on."""

    conversation: UUID
    channel: str

    def ref_id(self) -> UUID:
        return self.conversation


class ConversationLeft(Event, frozen=True, kw_only=True, tag="conversation.left"):
    conversation: UUID
    channel: str

    def ref_id(self) -> UUID:
        return self.conversation


class ConversationSettingsChanged(Event, frozen=True, kw_only=True, tag="conversation.settings"):
    conversation: UUID
    muted_until: datetime | None
    notification_level: str
    is_hidden: bool


class ConversationRead(Event, frozen=True, kw_only=True, tag="conversation.read"):
    """Read on one of the user's devices; the others may drop their counts and notifications."""

    conversation: UUID
    seq: int


class UserBlocked(Event, frozen=True, kw_only=True, tag="user.blocked"):
    user: UUID


class UserUnblocked(Event, frozen=True, kw_only=True, tag="user.unblocked"):
    user: UUID


class UserChanged(Event, frozen=True, kw_only=True, tag="user.changed"):
    user: UUID


class UserDeleted(Event, frozen=True, kw_only=True, tag="user.deleted"):
    """Closes all of the user's sockets."""

    user: UUID

    def subject_id(self) -> UUID:
        return self.user


class SessionRevoked(Event, frozen=True, kw_only=True, tag="session.revoked"):
    """Closes the sockets of this session on every process."""

    session: UUID

    def ref_id(self) -> UUID:
        return self.session


# --- hints, without offset


class ReceiptRead(Event, frozen=True, kw_only=True, tag="receipt.read"):
    conversation: UUID
    user: UUID
    seq: int


class ReceiptDelivered(Event, frozen=True, kw_only=True, tag="receipt.delivered"):
    conversation: UUID
    user: UUID
    seq: int


class TypingStarted(Event, frozen=True, kw_only=True, tag="typing.started"):
    conversation: UUID
    user: UUID
    expires_in: int


class TypingStopped(Event, frozen=True, kw_only=True, tag="typing.stopped"):
    conversation: UUID
    user: UUID


class CallRinging(Event, frozen=True, kw_only=True, tag="call.ringing"):
    """Somebody rings the others; phones that do not listen hear of it by a push."""

    conversation: UUID
    user: UUID
    call: str
    data: Any
    expires_in: int
