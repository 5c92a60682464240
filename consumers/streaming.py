"""
The protocol without websockets: HTTP streaming and server-sent events out, ``/emulation`` in.

For browsers behind proxies that break websockets; SDKs use them only where they are told to. The way out is an endless
response, held by one process; what the client says comes as requests to any process, and is handed to that one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from .consumer import Outbox, unwrapped
from .engine import obtain
from .protocol.codec import Codec, Undecodable
from .protocol.json import JSON
from .protocol.messages import Disconnected, EmulationRequest, Push, Raw, Reply
from .protocol.protobuf import PROTOBUF, decode_emulation

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HTTP_STREAM = "/connection/http_stream"
SSE = "/connection/sse"
EMULATION = "/emulation"
PATHS = (HTTP_STREAM, SSE, EMULATION)
MAX_BODY_BYTES = 65536
_BINARY = b"application/octet-stream"
# After these the client comes back; what it is told is informative, as it looks at the code itself.
_RETURNS = (*range(3000, 3500), *range(4000, 4500))


class Streaming:
    """
    The ASGI application of the three addresses.

    ``allows``: whether pages of an origin may use them; ``most``: how many streams a process holds.
    """

    def __init__(self, allows: Callable[[str | None, str], bool], most: int) -> None:
        self._allows = allows
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1") or None
        if not self._allows(origin, headers.get(b"host", b"").decode("latin-1")):
            return await _answer(send, 403)
        allowed = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")] if origin else []
        if scope["method"] == "OPTIONS":
            more = [
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", b"content-type"),
                (b"access-control-max-age", b"600"),
            ]
            return await _answer(send, 204, [*allowed, *more])
        body = await _read(receive)
        if body is None:
            return await _answer(send, 413, allowed)
        if scope["path"] == EMULATION:
            return await _answer(send, await _emulate(headers, body), allowed)
        is_sse = scope["path"] == SSE
        if is_sse and scope["method"] == "GET":
            body = b"".join(parse_qs(scope["query_string"]).get(b"cf_connect", []))
        if not body or (not is_sse and scope["method"] != "POST"):
            return await _answer(send, 400, allowed)
        if len((await obtain()).control.emulated) >= self._most:
            return await _answer(send, 503, [*allowed, (b"retry-after", b"1")])
        codec = PROTOBUF if not is_sse and headers.get(b"content-type") == _BINARY else JSON
        await _serve(codec, body, receive, send, is_sse=is_sse, headers=allowed)


async def _serve(
    codec: Codec, first: bytes, receive: Receive, send: Send, *, is_sse: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    """Hold one client's way out until either side ends it."""
    engine = await obtain()
    outbox = StreamOutbox(send, codec, is_sse=is_sse)
    connection = engine.connection(outbox, codec)
    session = connection.emulation = secrets.token_urlsafe(24)
    engine.control.emulated[session] = connection
    kind = b"text/event-stream" if is_sse else _BINARY if codec is PROTOBUF else b"application/json"
    more = [(b"content-type", kind), (b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, *more]})
    writing = asyncio.ensure_future(outbox.run())
    hanging_up = asyncio.ensure_future(_until_hung_up(receive))
    try:
        connection.receive(first, codec.is_text)
        await asyncio.wait((writing, hanging_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        del engine.control.emulated[session]
        connection.lost()
        for task in (writing, hanging_up):
            task.cancel()
        await asyncio.gather(writing, hanging_up, return_exceptions=True)


async def _until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamOutbox(Outbox):
    """The way out as the body of a response; a close is told by a push, and ends it."""

    def __init__(self, send: Send, codec: Codec, *, is_sse: bool) -> None:
        super().__init__(send)
        self._codec = codec
        self._is_sse = is_sse

    async def send_frame(self, frame: bytes) -> None:
        await self._send({"type": "http.response.body", "body": self._body(unwrapped(frame)), "more_body": True})

    async def send_close(self, code: int, reason: str) -> None:
        told = Disconnected(code, reason, reconnect=code in _RETURNS)
        body = self._body(self._codec.encode(Reply(push=Push(disconnect=told))))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _body(self, payload: bytes) -> bytes:
        if self._is_sse:
            return b"".join(b"data: %b\n\n" % line for line in payload.split(b"\n"))
        return payload + b"\n" if self._codec is JSON else payload


# --- the way in


async def _emulate(headers: Mapping[bytes, bytes], body: bytes) -> int:
    """Hand commands to the connection they are for, wherever it is; the status of the answer."""
    try:
        request = _decode(headers.get(b"content-type") == _BINARY, body)
    except (Undecodable, msgspec.MsgspecError):
        return 400
    control = (await obtain()).control
    match control.emulate(request.node, request.session, bytes(request.data)):
        case True:
            return 204
        case False:
            return 500
        case None:
            return 404


class _JsonEmulation(msgspec.Struct):
    node: str
    session: str
    data: str


_decode_json = msgspec.json.Decoder(_JsonEmulation).decode


def _decode(is_binary: bool, body: bytes) -> EmulationRequest:
    if is_binary:
        return decode_emulation(body)
    request = _decode_json(body)
    return EmulationRequest(request.node, request.session, Raw(request.data.encode()))


async def _read(receive: Receive) -> bytes | None:
    """The body of a request, None if it is too large."""
    pieces: list[bytes] = []
    left = MAX_BODY_BYTES
    while True:
        event = await receive()
        pieces.append(event.get("body", b""))
        left -= len(pieces[-1])
        if left < 0:
            return None
        if not event.get("more_body"):
            return b"".join(pieces)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    found = [*(headers or ()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": found})
    await send({"type": "http.response.body", "body": b""})
