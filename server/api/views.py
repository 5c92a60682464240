"""From an HTTP request to a method and back: what all operations have in common."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from consumers import rpc
from consumers.engine import obtain
from consumers.tokens import Claims
from models import payloads, threads
from models.drafts import MessageDraft
from models.errors import InvalidInput

from . import auth
from .operations import Operation
from .rate_limit import limiter

MAX_BODY_BYTES = 256 * 1024


def make(operation: Operation) -> Callable[..., Awaitable[HttpResponse]]:
    """Make the view of one operation, with the path's parts as parameters, for ninja to read."""

    async def view(request: HttpRequest, **path: UUID) -> HttpResponse:
        return await _answer(operation, request, path)

    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    view.__name__ = operation.method.replace(".", "_")
    view.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HttpRequest),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=UUID) for name in names),
        ]
    )
    return view


async def _answer(operation: Operation, request: HttpRequest, path: dict[str, UUID]) -> HttpResponse:
    env = settings.ROOST
    address = {f"address:{request.META.get('REMOTE_ADDR')}": env.http_requests_per_minute_address}
    try:
        claims = await auth.caller(request)
    except Exception:
        # Whoever tries tokens is counted as well.
        await limiter().take(address)
        raise
    await limiter().take({**address, f"user:{claims.user}": env.http_requests_per_minute})
    arguments = arguments_of(operation.takes_body, request, path)
    if operation.method == rpc.SEND:
        return await _send(claims, arguments)
    method = rpc.METHODS[operation.method]
    engine = await obtain()
    caller = rpc.Caller(claims.user, claims.device, claims.session, engine.receipts)
    value = method.decode(arguments)
    body = (
        rpc.encode(method.call(caller, value))
        if method.is_immediate
        else await threads.run(_encoded, method, caller, value)
    )
    if operation.returns is None:
        return HttpResponse(status=204)
    return json_answer(body, operation.status)


async def _send(claims: Claims, arguments: msgspec.Raw) -> HttpResponse:
    draft = rpc.decode_send(arguments)
    engine = await obtain()
    stored = await engine.writer.send(
        MessageDraft(
            sender=claims.user,
            sender_device=claims.device,
            conversation=draft.conversation,
            client_id=draft.client_id,
            text=draft.text,
            data=draft.data,
            mentions=tuple(draft.mentions),
            reply_to=draft.reply_to,
            kind=draft.kind,
        )
    )
    return json_answer(rpc.encode(rpc.Sent.of(stored)), 200 if stored.duplicate else 201)


def _encoded(method: rpc.Method, caller: rpc.Caller, arguments: Any) -> bytes:
    return rpc.encode(method.call(caller, arguments))


def arguments_of(takes_body: bool, request: HttpRequest, path: Mapping[str, UUID | str]) -> msgspec.Raw:
    """Gather what the method takes: the path's parts win over the body or the query."""
    fields: dict[str, Any] = {}
    if takes_body and request.body:
        if len(request.body) > MAX_BODY_BYTES:
            raise InvalidInput("The body is too large.")
        # Each member stays as it came: the app's own JSON is not ours to touch.
        fields = dict(msgspec.json.decode(request.body, type=dict[str, msgspec.Raw]))
    elif not takes_body:
        fields = {name: _scalar(str(value)) for name, value in request.GET.items()}
    return msgspec.Raw(payloads.to_json({**fields, **path}))


def _scalar(text: str) -> str | int:
    # Query parameters are text; the only numbers among ours are whole.
    return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 19 else text


def json_answer(body: bytes, status: int) -> HttpResponse:
    """Answer with a payload that is encoded already."""
    response = HttpResponse(body, content_type="application/json", status=status)
    response["Cache-Control"] = "no-store"
    return response
