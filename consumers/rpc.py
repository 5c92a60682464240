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
from msgspec import UNSET, UnsetType

from models import errors, limits, payloads
from models.drafts import StoredMessage
from models.errors import DomainError
from models.operations import calls, conversations, devices, members, messages, pushes, sessions, users
from models.queries import conversations as conversation_queries
from models.queries import members as member_queries
from models.queries import messages as message_queries
from models.queries import pushes as push_queries
from models.queries import sync
from models.queries import users as user_queries
from models.receipts import Receipt, ReceiptBatcher

from .outcomes import is_outage
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
    """
    One method. ``is_immediate``: it needs no database and is called in the event loop. ``may_log_out``: it may end the
    very session that calls it.
    """

    call: Callable[[Caller, Any], Any]
    arguments: type
    decode: Callable[[Raw], Any]
    is_immediate: bool = False
    may_log_out: bool = False


METHODS: dict[str, Method] = {}


def _method(
    name: str, arguments: type[Arguments], *, is_immediate: bool = False, may_log_out: bool = False
) -> Callable[[Callable[[Caller, Arguments], Any]], Callable[[Caller, Arguments], Any]]:
    """Enter a function into the table."""

    def enter(function: Callable[[Caller, Arguments], Any]) -> Callable[[Caller, Arguments], Any]:
        METHODS[name] = Method(function, arguments, _decoder(arguments), is_immediate, may_log_out)
        return function

    return enter


def _decoder(arguments: type[Arguments]) -> Callable[[Raw], Arguments]:
    decode = msgspec.json.Decoder(arguments).decode
    # Clients leave the data of a method without arguments out, or send null.
    return lambda data: decode(b"{}" if bytes(data) in (b"", b"null") else data)


# --- messages


def _null() -> Raw:
    # Not None: in a union with it msgspec takes nothing for raw.
    return Raw(b"null")


class Content(msgspec.Struct):
    """What a message consists of."""

    client_id: str
    text: str | None = None
    data: Raw = msgspec.field(default_factory=_null)
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


class Id(msgspec.Struct):
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


@_method("message.get", Id)
def _get_message(caller: Caller, arguments: Id) -> Any:
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


@_method("message.delete", Id)
def _delete(caller: Caller, arguments: Id) -> Any:
    return messages.delete_message(actor=caller.user, message_id=arguments.id)


@_method("message.push", Id)
def _message_push(caller: Caller, arguments: Id) -> Any:
    return push_queries.of_message(actor=caller.user, message_id=arguments.id)


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


# --- conversations


class ConversationId(msgspec.Struct):
    conversation: UUID


class Page(msgspec.Struct):
    cursor: str | None = None
    limit: int = limits.DEFAULT_PAGE


class UserId(msgspec.Struct):
    user: UUID


class CreateGroup(msgspec.Struct):
    title: str
    members: list[UUID] = []
    data: Any = None


class Rename(msgspec.Struct):
    conversation: UUID
    title: str


class SetData(msgspec.Struct):
    conversation: UUID
    data: Any


class SetPushContent(msgspec.Struct):
    conversation: UUID
    push_content: str


class Members(msgspec.Struct):
    conversation: UUID
    cursor: str | None = None
    limit: int = limits.DEFAULT_PAGE


class MemberId(msgspec.Struct):
    conversation: UUID
    user: UUID


class ChangeRole(msgspec.Struct):
    conversation: UUID
    user: UUID
    role: str


class Mute(msgspec.Struct):
    conversation: UUID
    until: datetime | None = None
    level: str | None = None


@_method("conversation.list", Page)
def _list_conversations(caller: Caller, arguments: Page) -> Any:
    return conversation_queries.list_conversations(actor=caller.user, cursor=arguments.cursor, limit=arguments.limit)


@_method("conversation.get", ConversationId)
def _get_conversation(caller: Caller, arguments: ConversationId) -> Any:
    return conversation_queries.get_conversation(actor=caller.user, conversation_id=arguments.conversation)


@_method("conversation.create_direct", UserId)
def _create_direct(caller: Caller, arguments: UserId) -> Any:
    return conversations.create_direct(actor=caller.user, user_id=arguments.user)


@_method("conversation.create_group", CreateGroup)
def _create_group(caller: Caller, arguments: CreateGroup) -> Any:
    return conversations.create_group(
        actor=caller.user, title=arguments.title, member_ids=arguments.members, data=arguments.data
    )


@_method("conversation.rename", Rename)
def _rename(caller: Caller, arguments: Rename) -> Any:
    return conversations.rename(actor=caller.user, conversation_id=arguments.conversation, title=arguments.title)


@_method("conversation.set_data", SetData)
def _set_data(caller: Caller, arguments: SetData) -> Any:
    return conversations.set_data(actor=caller.user, conversation_id=arguments.conversation, data=arguments.data)


@_method("conversation.set_push_content", SetPushContent)
def _set_push_content(caller: Caller, arguments: SetPushContent) -> Any:
    return conversations.set_push_content(
        actor=caller.user, conversation_id=arguments.conversation, push_content=arguments.push_content
    )


@_method("conversation.delete", ConversationId)
def _delete_conversation(caller: Caller, arguments: ConversationId) -> Any:
    conversations.delete_conversation(actor=caller.user, conversation_id=arguments.conversation)
    return {}


@_method("conversation.members", Members)
def _list_members(caller: Caller, arguments: Members) -> Any:
    return member_queries.list_members(
        actor=caller.user,
        conversation_id=arguments.conversation,
        cursor=arguments.cursor,
        limit=arguments.limit,
    )


@_method("conversation.add_member", MemberId)
def _add_member(caller: Caller, arguments: MemberId) -> Any:
    return members.add_member(actor=caller.user, conversation_id=arguments.conversation, user_id=arguments.user)


@_method("conversation.remove_member", MemberId)
def _remove_member(caller: Caller, arguments: MemberId) -> Any:
    members.remove_member(actor=caller.user, conversation_id=arguments.conversation, user_id=arguments.user)
    return {}


@_method("conversation.change_role", ChangeRole)
def _change_role(caller: Caller, arguments: ChangeRole) -> Any:
    return members.change_role(
        actor=caller.user,
        conversation_id=arguments.conversation,
        user_id=arguments.user,
        role=arguments.role,
    )


@_method("conversation.leave", ConversationId)
def _leave(caller: Caller, arguments: ConversationId) -> Any:
    members.leave(actor=caller.user, conversation_id=arguments.conversation)
    return {}


@_method("conversation.hide", ConversationId)
def _hide(caller: Caller, arguments: ConversationId) -> Any:
    conversations.hide(actor=caller.user, conversation_id=arguments.conversation)
    return {}


@_method("conversation.mute", Mute)
def _mute(caller: Caller, arguments: Mute) -> Any:
    return conversations.mute(
        actor=caller.user,
        conversation_id=arguments.conversation,
        until=arguments.until,
        level=arguments.level,
    )


# --- feeds


class CreateFeed(msgspec.Struct):
    title: str
    data: Any = None


@_method("feed.create", CreateFeed)
def _create_feed(caller: Caller, arguments: CreateFeed) -> Any:
    return conversations.create_feed(actor=caller.user, title=arguments.title, data=arguments.data)


@_method("feed.list", Page)
def _list_feeds(caller: Caller, arguments: Page) -> Any:
    return member_queries.list_feeds(actor=caller.user, cursor=arguments.cursor, limit=arguments.limit)


@_method("feed.follow", ConversationId)
def _follow(caller: Caller, arguments: ConversationId) -> Any:
    members.follow(actor=caller.user, conversation_id=arguments.conversation)
    return {}


@_method("feed.unfollow", ConversationId)
def _unfollow(caller: Caller, arguments: ConversationId) -> Any:
    members.unfollow(actor=caller.user, conversation_id=arguments.conversation)
    return {}


# --- people


class Nothing(msgspec.Struct):
    """A method without arguments."""


class UpdateMe(msgspec.Struct):
    name: str | UnsetType = UNSET
    data: Any = UNSET
    quiet_hours: payloads.QuietHours | UnsetType | None = UNSET
    wants_summaries: bool | UnsetType = UNSET


class Search(msgspec.Struct):
    q: str


@_method("user.me", Nothing)
def _me(caller: Caller, arguments: Nothing) -> Any:
    return user_queries.me(actor=caller.user)


@_method("user.update", UpdateMe)
def _update_me(caller: Caller, arguments: UpdateMe) -> Any:
    return users.update_me(
        actor=caller.user,
        name=arguments.name,
        data=arguments.data,
        quiet_hours=arguments.quiet_hours,
        wants_summaries=arguments.wants_summaries,
    )


@_method("user.delete_account", Nothing, may_log_out=True)
def _delete_account(caller: Caller, arguments: Nothing) -> Any:
    users.delete_account(actor=caller.user)
    return {}


@_method("user.get", Id)
def _get_user(caller: Caller, arguments: Id) -> Any:
    return user_queries.get_user(actor=caller.user, user_id=arguments.id)


@_method("user.search", Search)
def _search(caller: Caller, arguments: Search) -> Any:
    return user_queries.search(actor=caller.user, q=arguments.q)


@_method("user.block", UserId)
def _block(caller: Caller, arguments: UserId) -> Any:
    users.block(actor=caller.user, user_id=arguments.user)
    return {}


@_method("user.unblock", UserId)
def _unblock(caller: Caller, arguments: UserId) -> Any:
    users.unblock(actor=caller.user, user_id=arguments.user)
    return {}


@_method("user.blocks", Nothing)
def _blocks(caller: Caller, arguments: Nothing) -> Any:
    return user_queries.blocks(actor=caller.user)


# --- calls and pushes


class Ring(msgspec.Struct):
    conversation: UUID
    call_id: str
    data: Any = None


class PushId(msgspec.Struct):
    push_id: UUID


class PushReceipt(msgspec.Struct):
    push_id: UUID
    event: str


@_method("call.ring", Ring)
def _ring(caller: Caller, arguments: Ring) -> Any:
    calls.ring(
        actor=caller.user,
        conversation_id=arguments.conversation,
        call_id=arguments.call_id,
        data=arguments.data,
    )
    return {}


@_method("push.receipt", PushReceipt)
def _push_receipt(caller: Caller, arguments: PushReceipt) -> Any:
    pushes.report(actor=caller.user, device_id=caller.device, push_id=arguments.push_id, event=arguments.event)
    return {}


@_method("push.get", PushId)
def _get_push(caller: Caller, arguments: PushId) -> Any:
    return push_queries.get_push(actor=caller.user, push_id=arguments.push_id)


# --- devices, sessions, sync


class RegisterDevice(msgspec.Struct):
    platform: str | None = None
    push_provider: str | None = None
    target_kind: str | None = None
    target: str | None = None
    locale: str | None = None
    app_version: str | None = None
    name: str | None = None
    push_content: str | None = None
    push_key: str | None = None
    voip_target: str | None = None


class Sync(msgspec.Struct):
    cursor: str | None = None
    limit: int = sync.PAGE


@_method("device.register", RegisterDevice)
def _register_device(caller: Caller, arguments: RegisterDevice) -> Any:
    if caller.device is None:
        raise errors.DeviceNotFound
    return devices.register(actor=caller.user, device_id=caller.device, **msgspec.structs.asdict(arguments))


@_method("device.list", Nothing)
def _list_devices(caller: Caller, arguments: Nothing) -> Any:
    return user_queries.devices(actor=caller.user)


@_method("device.remove", Id, may_log_out=True)
def _remove_device(caller: Caller, arguments: Id) -> Any:
    devices.remove(actor=caller.user, device_id=arguments.id)
    return {}


@_method("device.push_test", Id)
def _push_test(caller: Caller, arguments: Id) -> Any:
    return pushes.send_test(actor=caller.user, device_id=arguments.id)


@_method("session.list", Nothing)
def _list_sessions(caller: Caller, arguments: Nothing) -> Any:
    return user_queries.sessions(actor=caller.user, current=caller.session)


@_method("session.revoke", Id, may_log_out=True)
def _revoke_session(caller: Caller, arguments: Id) -> Any:
    sessions.revoke_session(actor=caller.user, session_id=arguments.id)
    return {}


@_method("sync", Sync)
def _sync(caller: Caller, arguments: Sync) -> Any:
    return sync.sync(actor=caller.user, cursor=arguments.cursor, limit=arguments.limit)


# --- answers


encode = payloads.to_json


def input_of(name: str) -> type:
    """The struct that a method takes."""
    return Send if name == SEND else METHODS[name].arguments


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
