"""
The chat for the app's own backend, under the key of the server API: people, conversations, messages, tokens.

One line for each address, as in ``operations``; here the path's parts are what the backend calls people and
conversations (or our ids).
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from msgspec import UNSET, UnsetType

from models import limits, payloads, threads
from models.errors import TokenInvalid
from models.operations import backend

from ..accounts.strategy import token_pair
from .tokens import TokenPair
from .views import arguments_of, json_answer


class User(msgspec.Struct):
    """What the backend says of a person; what is not given stays."""

    user: str
    name: str | UnsetType = UNSET
    data: Any = UNSET


class UserName(msgspec.Struct):
    user: str


class LogIn(msgspec.Struct):
    user: str
    install_id: str = ""
    platform: str = ""
    name: str = ""


class Conversation(msgspec.Struct):
    conversation: str
    kind: str
    members: list[str] = []
    title: str = ""
    data: Any = UNSET


class ConversationName(msgspec.Struct):
    conversation: str


class Membership(msgspec.Struct):
    conversation: str
    user: str


class BackendSend(msgspec.Struct):
    """Without ``sender`` it is the system that speaks."""

    conversation: str
    client_id: str
    sender: str | None = None
    text: str | None = None
    data: Any = None
    reply_to: UUID | None = None


class BackendHistory(msgspec.Struct):
    conversation: str
    before: int | None = None
    after: int | None = None
    limit: int = limits.DEFAULT_PAGE


def _log_in(**arguments: Any) -> dict[str, Any]:
    return token_pair(backend.log_in(**arguments))


@dataclass(frozen=True, slots=True)
class BackendOperation:
    """One address. ``returns`` is the payload's type, None where there is nothing to say."""

    verb: str
    path: str
    name: str
    call: Callable[..., Any]
    arguments: type[Any]
    summary: str
    returns: Any = None
    status: int = 200
    tag: str = "The app's backend"

    @property
    def takes_body(self) -> bool:
        return self.verb in ("POST", "PUT")


_U, _C = "/backend/users/{user}", "/backend/conversations/{conversation}"

OPERATIONS = [
    BackendOperation(
        "PUT",
        _U,
        "backend.ensure_user",
        backend.ensure_user,
        User,
        "Make or change a user",
        payloads.UserPayload,
    ),
    BackendOperation("GET", _U, "backend.show_user", backend.show_user, UserName, "Show a user", payloads.UserPayload),
    BackendOperation("DELETE", _U, "backend.delete_user", backend.delete_user, UserName, "Delete a user"),
    BackendOperation(
        "POST", f"{_U}/token", "backend.log_in", _log_in, LogIn, "Issue tokens for a device of a user", TokenPair
    ),
    BackendOperation(
        "PUT",
        _C,
        "backend.ensure_conversation",
        backend.ensure_conversation,
        Conversation,
        "Make or change a conversation",
        payloads.BackendConversation,
    ),
    BackendOperation(
        "GET",
        _C,
        "backend.show_conversation",
        backend.show_conversation,
        ConversationName,
        "Show a conversation",
        payloads.BackendConversation,
    ),
    BackendOperation(
        "DELETE",
        _C,
        "backend.delete_conversation",
        backend.delete_conversation,
        ConversationName,
        "Delete a group or feed",
    ),
    BackendOperation(
        "PUT",
        f"{_C}/members/{{user}}",
        "backend.add_member",
        backend.add_member,
        Membership,
        "Add a member",
        payloads.MemberPayload,
    ),
    BackendOperation(
        "DELETE",
        f"{_C}/members/{{user}}",
        "backend.remove_member",
        backend.remove_member,
        Membership,
        "Remove a member",
    ),
    BackendOperation(
        "POST",
        f"{_C}/messages",
        "backend.send",
        backend.send,
        BackendSend,
        "Send as a member or as the system",
        payloads.MessagePayload,
        201,
    ),
    BackendOperation(
        "GET",
        f"{_C}/messages",
        "backend.history",
        backend.history,
        BackendHistory,
        "Read a conversation",
        payloads.MessagePage,
    ),
]


def make(operation: BackendOperation) -> Callable[..., Awaitable[HttpResponse]]:
    """Make the view of one operation, with the path's parts as parameters, for ninja to read."""
    decode = msgspec.json.Decoder(operation.arguments).decode

    async def view(request: HttpRequest, **path: str) -> HttpResponse:
        _check_key(request)
        arguments = decode(arguments_of(operation.takes_body, request, path))
        body = await threads.run(_encoded, operation, _given(arguments))
        return HttpResponse(status=204) if operation.returns is None else json_answer(body, operation.status)

    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    view.__name__ = operation.name.replace(".", "_")
    view.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HttpRequest),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=str) for name in names),
        ]
    )
    return view


def _check_key(request: HttpRequest) -> None:
    key = settings.ROOST.api_key
    if not key or not hmac.compare_digest(request.headers.get("X-API-Key", "").encode(), key.encode()):
        raise TokenInvalid("The key of the server API is missing or wrong.")


def _given(arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(arguments).items() if value is not UNSET}


def _encoded(operation: BackendOperation, arguments: dict[str, Any]) -> bytes:
    return payloads.to_json(operation.call(**arguments))
