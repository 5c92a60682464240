"""
The server API under ``/api``, for the app's own backend: publishing and looking after clients, at message rate.

A plain ASGI application, past Django's request path. Addresses, requests and answers are those of Centrifugo's HTTP
API, so that its client libraries work: mistakes are answered with status 200 and an error; only a wrong key (401), an
unknown method (404) and a body that is no JSON (400) are told by the status.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from consumers import orders
from consumers.control import Control
from consumers.engine import obtain
from consumers.info import Info
from consumers.outcomes import Refused
from consumers.protocol.codec import Unsuitable
from consumers.protocol.codes import Disconnect, ErrorCode
from consumers.protocol.json import JSON
from consumers.protocol.messages import StreamPosition
from consumers.views import to_wire
from models.errors import DomainError, LimitExceeded, Unavailable
from models.events import Publication

from .body_limit import Receive, Scope, Send
from .once import once

log = logging.getLogger(__name__)

PREFIX = "/api/"
MAX_COMMANDS = 1_000
MAX_CHANNELS = 1_000
# What may be sent as a close: the protocol's own, and those that are free for applications.
LEGAL_CODES = range(3000, 5000)

Raw = msgspec.Raw
NOTHING = Raw(b"")


class Problem(Exception):
    """A mistake of the caller, or a failure of ours, as the API tells it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# --- requests


class Request(msgspec.Struct, kw_only=True):
    """The base of all; members that it does not know are passed over."""


class Publish(Request, kw_only=True):
    channel: str
    data: Raw = NOTHING
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False


class Broadcast(Request, kw_only=True):
    channels: list[str]
    data: Raw = NOTHING
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False


class Flag(Request, kw_only=True):
    value: bool = False


class Subscribe(Request, kw_only=True):
    user: str
    channel: str
    info: Raw = NOTHING
    b64info: str = ""
    client: str = ""
    session: str = ""
    data: Raw = NOTHING
    b64data: str = ""
    recover_since: StreamPosition | None = None
    override: dict[str, Flag] = {}


class Unsubscribe(Request, kw_only=True):
    user: str
    channel: str = ""
    client: str = ""
    session: str = ""


class Close(Request, kw_only=True):
    code: int = 0
    reason: str = ""


class DisconnectRequest(Request, kw_only=True):
    user: str
    client: str = ""
    session: str = ""
    whitelist: list[str] = []
    disconnect: Close | None = None


class Refresh(Request, kw_only=True):
    user: str
    client: str = ""
    session: str = ""
    expired: bool = False
    expire_at: int = 0


class History(Request, kw_only=True):
    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class Channel(Request, kw_only=True):
    channel: str


class Channels(Request, kw_only=True):
    pattern: str = ""


class Nothing(Request, kw_only=True):
    """A request without members."""


class Batch(Request, kw_only=True):
    commands: list[dict[str, Raw]]
    parallel: bool = False


# --- methods


async def _publish(control: Control, request: Publish) -> object:
    return await _publish_once(control, request.channel, request)


async def _broadcast(control: Control, request: Broadcast) -> object:
    if len(request.channels) > MAX_CHANNELS:
        raise Problem(ErrorCode.LIMIT_EXCEEDED.value, f"at most {MAX_CHANNELS} channels")
    tried = await asyncio.gather(
        *(_publish_once(control, channel, request) for channel in request.channels), return_exceptions=True
    )
    return {"responses": [_answer(result) for result in tried]}


async def _publish_once(control: Control, channel: str, request: Publish | Broadcast) -> dict[str, object]:
    claim = _claim(control, channel, request)
    if claim and not await once().claim(claim):
        return {}
    try:
        return await _placed(_begin_publishing(control, channel, request))
    except Exception:
        if claim:
            await once().release(claim)
        raise


def _claim(control: Control, channel: str, request: Publish | Broadcast) -> str:
    """What is to be done once; empty for what may be done again, or is kept: that the writer recognises."""
    key = request.idempotency_key
    return f"{channel}:{key}" if key and not control.keeps(channel, skip_history=request.skip_history) else ""


def _begin_publishing(
    control: Control, channel: str, request: Publish | Broadcast
) -> asyncio.Future[Publication] | None:
    return control.publish(
        channel,
        _data(request.data, request.b64data),
        tags=request.tags,
        delta=request.delta,
        skip_history=request.skip_history,
        idempotency_key=request.idempotency_key,
    )


async def _placed(publishing: asyncio.Future[Publication] | None) -> dict[str, object]:
    """Where a publication stands in its channel, once it does."""
    if publishing is None:
        return {}
    stored = await publishing
    return {"offset": stored.offset, "epoch": stored.epoch}


async def _subscribe(control: Control, request: Subscribe) -> object:
    since = request.recover_since
    control.subscribe(
        orders.Subscribe(
            user=request.user,
            client=request.client,
            session=request.session,
            channel=request.channel,
            info=_data(request.info, request.b64info),
            data=_data(request.data, request.b64data),
            override={name: flag.value for name, flag in request.override.items()},
            since=(since.offset, since.epoch) if since else None,
        )
    )
    return {}


async def _unsubscribe(control: Control, request: Unsubscribe) -> object:
    control.unsubscribe(
        orders.Unsubscribe(user=request.user, client=request.client, session=request.session, channel=request.channel)
    )
    return {}


async def _disconnect(control: Control, request: DisconnectRequest) -> object:
    close = request.disconnect or Close()
    code, reason = close.code or Disconnect.FORCE_DISCONNECT.value, close.reason or Disconnect.FORCE_DISCONNECT.reason
    if code not in LEGAL_CODES or len(reason.encode()) > 123 or _is_json(reason):
        raise Problem(ErrorCode.BAD_REQUEST.value, "a code is 3000 to 4999, a reason at most 123 bytes and no JSON")
    control.disconnect(
        orders.Disconnect(
            user=request.user,
            client=request.client,
            session=request.session,
            code=code,
            reason=reason,
            whitelist=request.whitelist,
        )
    )
    return {}


async def _refresh(control: Control, request: Refresh) -> object:
    control.refresh(
        orders.Refresh(
            user=request.user,
            client=request.client,
            session=request.session,
            is_expired=request.expired,
            expire_at=request.expire_at,
        )
    )
    return {}


async def _history(control: Control, request: History) -> object:
    publications, position = await control.history(
        request.channel, limit=request.limit, since=request.since, reverse=request.reverse
    )
    try:
        shown = [to_wire(publication, JSON) for publication in publications]
    except Unsuitable:
        raise Problem(ErrorCode.INTERNAL.value, "the history holds data that is no JSON") from None
    return {"publications": shown, "offset": position.top, "epoch": position.epoch}


async def _history_remove(control: Control, request: Channel) -> object:
    await control.remove_history(request.channel)
    return {}


async def _presence(control: Control, request: Channel) -> object:
    there = await control.presence(request.channel)
    return {"presence": {client: info.to_wire(JSON) for client, info in there.items()}}


async def _presence_stats(control: Control, request: Channel) -> object:
    there: Mapping[str, Info] = await control.presence(request.channel)
    return {"num_clients": len(there), "num_users": len({info.user for info in there.values()})}


async def _channels(control: Control, request: Channels) -> object:
    found = await control.channels(request.pattern)
    return {"channels": {name: {"num_clients": clients} for name, clients in sorted(found.items())}}


async def _info(control: Control, request: Nothing) -> object:
    return {
        "nodes": [
            {
                "uid": counted.node,
                "name": counted.node[:8],
                "version": "roost",
                "num_clients": counted.clients,
                "num_users": counted.users,
                "num_subs": counted.subscriptions,
                "num_channels": len(counted.channels),
                "uptime": counted.uptime,
            }
            for counted in await control.survey()
        ]
    }


class Method(NamedTuple):
    """One method of the API."""

    call: Callable[[Control, Any], Awaitable[object]]
    decode: Callable[[Any], Any]


def _method(call: Callable[[Control, Any], Awaitable[object]], request: type[Request]) -> Method:
    return Method(call, msgspec.json.Decoder(request).decode)


METHODS: dict[str, Method] = {
    "publish": _method(_publish, Publish),
    "broadcast": _method(_broadcast, Broadcast),
    "subscribe": _method(_subscribe, Subscribe),
    "unsubscribe": _method(_unsubscribe, Unsubscribe),
    "disconnect": _method(_disconnect, DisconnectRequest),
    "refresh": _method(_refresh, Refresh),
    "history": _method(_history, History),
    "history_remove": _method(_history_remove, Channel),
    "presence": _method(_presence, Channel),
    "presence_stats": _method(_presence_stats, Channel),
    "channels": _method(_channels, Channels),
    "info": _method(_info, Nothing),
}
_decode_batch = msgspec.json.Decoder(Batch).decode
_encode = msgspec.json.Encoder().encode


class BackendApi:
    """The ASGI application."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = await self._respond(scope, receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        body = await _read(receive)
        if not self._key:
            return 404, b'{"error":{"code":108,"message":"ROOST_API_KEY is not set"}}'
        if not self._is_authorized(scope["headers"]):
            return 401, b'{"error":{"code":101,"message":"unauthorized"}}'
        if scope["method"] != "POST":
            return 405, b'{"error":{"code":107,"message":"use POST"}}'
        name = scope["path"].removeprefix(PREFIX)
        control = (await obtain()).control
        try:
            if name == "batch":
                return 200, _encode({"replies": await _batch(control, _decode_batch(body))})
            method = METHODS.get(name)
            if method is None:
                return 404, _encode({"error": {"code": ErrorCode.METHOD_NOT_FOUND.value, "message": "unknown method"}})
            request = method.decode(body or b"{}")
        except msgspec.MsgspecError as error:
            return 400, _encode({"error": {"code": ErrorCode.BAD_REQUEST.value, "message": str(error)[:200]}})
        return 200, _encode(_answer(await _try(method.call(control, request))))

    def _is_authorized(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = b""
        for name, value in headers:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"apikey ":
                given = value[7:]
        return hmac.compare_digest(given, self._key)


async def _batch(control: Control, batch: Batch) -> list[object]:
    if len(batch.commands) > MAX_COMMANDS:
        raise msgspec.ValidationError(f"a batch has at most {MAX_COMMANDS} commands")
    # Publications of one batch are stored by one commit, and in their order, if all are begun before any is done.
    begun = [_begin(control, command) for command in batch.commands]
    return [await reply if isinstance(reply, asyncio.Task) else reply for reply in begun]


def _begin(control: Control, command: dict[str, Raw]) -> object:
    """Begin a command; its reply, or the task that will give it."""
    if len(command) != 1:
        return {"error": {"code": ErrorCode.BAD_REQUEST.value, "message": "one method in each command"}}
    ((name, params),) = command.items()
    method = METHODS.get(name)
    if method is None:
        return {"error": {"code": ErrorCode.METHOD_NOT_FOUND.value, "message": "unknown method"}}
    try:
        request = method.decode(params)
    except msgspec.MsgspecError as error:
        return {"error": {"code": ErrorCode.BAD_REQUEST.value, "message": str(error)[:200]}}
    # Most of what comes in batches, and done at once where nothing is kept: a task would cost more than that.
    if isinstance(request, Publish) and not _claim(control, request.channel, request):
        try:
            publishing = _begin_publishing(control, request.channel, request)
        except Exception as error:
            return _answer(error)
        if publishing is None:
            return {name: {}}
        return asyncio.ensure_future(_reply(name, _placed(publishing)))
    return asyncio.ensure_future(_reply(name, method.call(control, request)))


async def _reply(name: str, work: Awaitable[object]) -> object:
    result = await _try(work)
    return _answer(result) if isinstance(result, BaseException) else {name: result}


async def _try(work: Awaitable[object]) -> object:
    try:
        return await work
    except Exception as error:
        return error


def _answer(result: object) -> dict[str, object]:
    if not isinstance(result, BaseException):
        return {"result": result}
    if isinstance(result, Refused):
        code, message = result.code.value, result.code.reason
    elif isinstance(result, Problem):
        code, message = result.code, str(result)
    elif isinstance(result, Unavailable | LimitExceeded):
        code, message = ErrorCode.INTERNAL.value, result.detail
    elif isinstance(result, DomainError):
        code, message = ErrorCode.BAD_REQUEST.value, result.detail
    else:
        log.error("a method of the server API failed", exc_info=result)
        code, message = ErrorCode.INTERNAL.value, ErrorCode.INTERNAL.reason
    return {"error": {"code": code, "message": message}}


def _data(data: Raw, b64data: str) -> bytes:
    if not b64data:
        return bytes(data)
    try:
        return base64.b64decode(b64data, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(ErrorCode.BAD_REQUEST.value, "b64data is no base64") from None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return False
    return True


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        event = await receive()
        pieces.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(pieces)
