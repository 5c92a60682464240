"""
What may be refused, and why.

DomainError
├── InvalidInput        400
├── NotAuthenticated    401
├── PermissionDenied    403
├── NotFound            404
├── Conflict            409
├── LimitExceeded       429   (retry_after seconds)
└── Unavailable         503   retry the same call later

A leaf names the situation; its ``code`` is what clients act on, its docstring the sentence a person reads.
"""

from __future__ import annotations

import re
from typing import ClassVar


class DomainError(Exception):
    """Something was refused."""

    code: ClassVar[str] = "domain_error"
    retry_after: float | None = None

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, detail: str | None = None, **facts: object) -> None:
        super().__init__(detail or (self.__doc__ or "").strip().splitlines()[0])
        self.facts = facts

    @property
    def detail(self) -> str:
        return str(self.args[0])


class InvalidInput(DomainError):
    """The request is malformed."""


class NotAuthenticated(DomainError):
    """Log in first."""


class PermissionDenied(DomainError):
    """You may not do this."""


class NotFound(DomainError):
    """There is no such thing."""


class Conflict(DomainError):
    """The present state does not allow this."""


class LimitExceeded(DomainError):
    """Too much, or too often."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        **facts: object,
    ) -> None:
        super().__init__(detail, **facts)
        self.retry_after = retry_after


class Unavailable(DomainError):
    """The service cannot do this right now; the same call may succeed in a moment."""

    retry_after = 1.0


class TooBusy(Unavailable):
    """Too many calls are waiting for the database."""


# --- input


class TextTooLong(InvalidInput):
    """The text is too long."""


class DataTooLarge(InvalidInput):
    """The data is too large."""


class EmptyMessage(InvalidInput):
    """A message needs a text or data."""


class TooManyMentions(InvalidInput):
    """The message mentions too many people."""


class BadClientId(InvalidInput):
    """A client_id has 1 to 64 characters."""


class BadText(InvalidInput):
    """The text holds characters that cannot be stored."""


class BadCursor(InvalidInput):
    """The cursor is not one of ours."""


# --- authentication


class TokenInvalid(NotAuthenticated):
    """The token is not valid."""


class TokenExpired(NotAuthenticated):
    """The token has expired."""


class SessionRevoked(NotAuthenticated):
    """This session has been ended; log in again."""


# --- permission


class NotAnAdmin(PermissionDenied):
    """Only an owner or admin may do this."""


class NotAnOwner(PermissionDenied):
    """Only an owner may do this."""


class NotTheSender(PermissionDenied):
    """Only its sender may do this."""


class PostingNotAllowed(PermissionDenied):
    """Only the feed's owner and admins may post."""


class DirectBlocked(PermissionDenied):
    """Messages between the two of you are blocked."""


class WrongConversationKind(PermissionDenied):
    """This kind of conversation does not have that."""


# --- absence; outsiders learn nothing more


class ConversationNotFound(NotFound):
    """There is no such conversation."""


class MessageNotFound(NotFound):
    """There is no such message."""


class UserNotFound(NotFound):
    """There is no such user."""


class MemberNotFound(NotFound):
    """There is no such member."""


class DeviceNotFound(NotFound):
    """There is no such device."""


class SessionNotFound(NotFound):
    """There is no such session."""


class PushNotFound(NotFound):
    """There is no such push."""


# --- conflicts


class MessageDeleted(Conflict):
    """The message has been deleted."""


class ReplyTargetGone(Conflict):
    """The message replied to does not exist in this conversation."""


class CannotMessageYourself(Conflict):
    """A direct conversation needs another person."""


class NoPushTarget(Conflict):
    """The device has not said where its pushes go."""


class TooManyToRing(Conflict):
    """The group is too large to be rung."""


# --- limits


class GroupFull(LimitExceeded):
    """The group has no place left."""


class TooManyDevices(LimitExceeded):
    """Too many devices are logged in."""


class TooManyRequests(LimitExceeded):
    """Too many requests; slow down."""


# --- outages


class Overloaded(Unavailable):
    """The server has more to write than it can; try again in a moment."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached; try again in a moment."""
