"""
The methods that clients call: name, operation, typed input. The same operations have HTTP addresses in ``server.api``.

A method only translates. Errors of the domain become protocol errors: the number is the category, the text the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

import msgspec
import psycopg
from django.db import DatabaseError, InterfaceError
from msgspec import UNSET, UnsetType

from models import errors, limits, payloads
from models.drafts import StoredMessage
from models.errors import DomainError
from models.operations import messages
from models.queries import messages as message_queries
from models.receipts import Receipt, ReceiptBatcher

from .protocol.messages import Error, Raw

SEND = "message.send"
PING = "ping"

# The category of an error is its HTTP status, so that both doors say the same.
_STATUS: dict[type[DomainError], int] = {
    errors.InvalidInput: 400,
    errors.NotAuthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.LimitExceeded: 429,
    errors.Unavailable: 503,
}


class Caller(NamedTuple):
    """Who calls, and the parts of the process that a method may need."""

    user: UUID
    device: UUID | None
    session: UUID | None
    receipts: ReceiptBatcher


Arguments = TypeVar("Arguments")


@dataclass(frozen=True, slots=True)
class Method:
    """One method. ``is_immediate``: it needs no database and is called in the event loop."""

    call: Callable[[Caller, Any], Any]
    decode: Callable[[Raw], Any]
    is_immediate: bool = False


METHODS: dict[str, Method] = {}


def _method(
    name: str, arguments: type[Arguments], *, is_immediate: bool = False
) -> Callable[[Callable[[Caller, Arguments], Any]], Callable[[Caller, Arguments], Any]]:
    """Enter a function into the table."""

    def enter(function: Callable[[Caller, Arguments], Any]) -> Callable[[Caller, Arguments], Any]:
        METHODS[name] = Method(function, _decoder(arguments), is_immediate)
        return function

    return enter


def _decoder(arguments: type[Arguments]) -> Callable[[Raw], Arguments]:
    decode = msgspec.json.Decoder(arguments).decode
    # Clients leave the data of a method without arguments out, or send null.
    return lambda data: decode(b"{}" if bytes(data) in (b"", b"null") else data)


# --- messages


class Content(msgspec.Struct):
    """What a message consists of."""

    client_id: str
    text: str | None = None
    data: Raw | None = None
    mentions: list[UUID] = []
    reply_to: UUID | None = None
    kind: str = "text"


class Send(Content, kw_only=True):
    conversation: UUID


class Sent(msgspec.Struct):
    """The answer to ``message.send``."""

    id: UUID
    seq: int
    created_at: datetime
    duplicate: bool

    @classmethod
    def of(cls, stored: StoredMessage) -> Self:
        return cls(stored.id, stored.seq, stored.created_at, stored.duplicate)


decode_send = _decoder(Send)
decode_content = _decoder(Content)


class History(msgspec.Struct):
    conversation: UUID
    before: int | None = None
    after: int | None = None
    limit: int = limits.DEFAULT_PAGE


class MessageId(msgspec.Struct):
    id: UUID


class Edit(msgspec.Struct):
    id: UUID
    text: str | UnsetType | None = UNSET
    data: Any = UNSET
    mentions: list[UUID] | UnsetType = UNSET


@_method("message.history", History)
def _history(caller: Caller, arguments: History) -> Any:
    return message_queries.history(
        actor=caller.user,
        conversation_id=arguments.conversation,
        before=arguments.before,
        after=arguments.after,
        limit=arguments.limit,
    )


@_method("message.get", MessageId)
def _get_message(caller: Caller, arguments: MessageId) -> Any:
    return message_queries.get_message(actor=caller.user, message_id=arguments.id)


@_method("message.edit", Edit)
def _edit(caller: Caller, arguments: Edit) -> Any:
    return messages.edit_message(
        actor=caller.user,
        message_id=arguments.id,
        text=arguments.text,
        data=arguments.data,
        mentions=arguments.mentions,
    )


@_method("message.delete", MessageId)
def _delete(caller: Caller, arguments: MessageId) -> Any:
    return messages.delete_message(actor=caller.user, message_id=arguments.id)


# --- receipts and typing


class Cursor(msgspec.Struct):
    conversation: UUID
    seq: int


class Typing(msgspec.Struct):
    conversation: UUID
    is_typing: bool = True


@_method("conversation.read", Cursor, is_immediate=True)
def _read(caller: Caller, arguments: Cursor) -> Any:
    seq = arguments.seq
    caller.receipts.put(Receipt(caller.user, caller.device, arguments.conversation, delivered=seq, read=seq))
    return {}


@_method("conversation.delivered", Cursor, is_immediate=True)
def _delivered(caller: Caller, arguments: Cursor) -> Any:
    caller.receipts.put(Receipt(caller.user, caller.device, arguments.conversation, delivered=arguments.seq))
    return {}


@_method("conversation.typing", Typing)
def _typing(caller: Caller, arguments: Typing) -> Any:
    messages.typing(actor=caller.user, conversation_id=arguments.conversation, is_typing=arguments.is_typing)
    return {}


# --- answers


encode = payloads.to_json


def refused(error: DomainError) -> Error:
    """An error of the domain as the protocol has it."""
    category = next(category for category in type(error).__mro__ if category in _STATUS)
    is_temporary = isinstance(error, errors.LimitExceeded | errors.Unavailable)
    return Error(_STATUS[category], error.code, is_temporary)


def invalid(error: Exception) -> Error:
    """The data of a method does not fit. The text says where, in words of msgspec's that hold no input."""
    return Error(400, f"invalid_input: {error}"[:200])


def failed(error: Exception) -> Error:
    """An outage may be tried again; a bug may not."""
    return refused(errors.DatabaseUnavailable()) if is_outage(error) else Error(500, "internal_error")


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, or took too long."""
    return isinstance(error, DatabaseError | InterfaceError | psycopg.OperationalError | TimeoutError)
