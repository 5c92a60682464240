"""All numbers of the protocol that mean something: errors, disconnects, unsubscribes. Texts are never empty."""

from __future__ import annotations

from enum import Enum
from typing import Self


class _Code(Enum):
    """A number with the text that goes with it; ``SHUTDOWN.value`` is the number."""

    reason: str

    def __new__(cls, value: int, reason: str) -> Self:
        member = object.__new__(cls)
        member._value_ = value
        member.reason = reason
        return member


class ErrorCode(_Code):
    """Errors in replies. 400 to 1999 belong to the application, see ``rpc``."""

    INTERNAL = 100, "internal server error"
    UNAUTHORIZED = 101, "unauthorized"
    UNKNOWN_CHANNEL = 102, "unknown channel"
    PERMISSION_DENIED = 103, "permission denied"
    METHOD_NOT_FOUND = 104, "method not found"
    ALREADY_SUBSCRIBED = 105, "already subscribed"
    LIMIT_EXCEEDED = 106, "limit exceeded"
    BAD_REQUEST = 107, "bad request"
    NOT_AVAILABLE = 108, "not available"
    TOKEN_EXPIRED = 109, "token expired"
    EXPIRED = 110, "expired"
    TOO_MANY_REQUESTS = 111, "too many requests"
    UNRECOVERABLE_POSITION = 112, "unrecoverable position"

    @property
    def is_temporary(self) -> bool:
        return self in (ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS)


class Disconnect(_Code):
    """Close codes: 3000 to 3499 and 4000 to 4499 make clients return, 3500 to 3999 and 4500 to 4999 do not."""

    CONNECTION_CLOSED = 3000, "connection closed"
    SHUTDOWN = 3001, "shutdown"
    INTERNAL = 3004, "internal server error"
    EXPIRED = 3005, "connection expired"
    SUBSCRIPTION_EXPIRED = 3006, "subscription expired"
    SLOW = 3008, "slow"
    WRITE_ERROR = 3009, "write error"
    INSUFFICIENT_STATE = 3010, "insufficient state"
    FORCE_RECONNECT = 3011, "force reconnect"
    NO_PONG = 3012, "no pong"
    TOO_MANY_REQUESTS = 3013, "too many requests"
    STATE_INVALIDATED = 3014, "state invalidated"
    INVALID_TOKEN = 3500, "invalid token"
    BAD_REQUEST = 3501, "bad request"
    STALE = 3502, "stale"
    FORCE_DISCONNECT = 3503, "force disconnect"
    CONNECTION_LIMIT = 3504, "connection limit"
    CHANNEL_LIMIT = 3505, "channel limit"
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol"
    PERMISSION_DENIED = 3507, "permission denied"
    NOT_AVAILABLE = 3508, "not available"
    TOO_MANY_ERRORS = 3509, "too many errors"


class Unsubscribe(_Code):
    """Codes of unsubscribe pushes: from 2500 on clients subscribe again by themselves."""

    SERVER = 2000, "server unsubscribe"
    INSUFFICIENT_STATE = 2500, "insufficient state"
    EXPIRED = 2501, "subscription expired"
    STATE_INVALIDATED = 2502, "state invalidated"
