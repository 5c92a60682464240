"""
Our websocket lane: picows below, ASGI above.

picows parses frames; this layer adds what RFC 6455 leaves to its user (fragments, UTF-8, reserved bits, close codes),
bounds in both directions, and the ASGI events. ``docs/decisions/0006`` says why. The front door hands sockets over.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from picows import (
    WSAutoPingStrategy,
    WSListener,
    WSMsgType,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol

from consumers.lane import EXTENSION, OnMessage
from consumers.protocol.framing import binary_frame, text_frame

log = logging.getLogger(__name__)
# picows logs each connection; what matters of it is logged here.
_silent = logging.getLogger("roost.picows")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False
_silent.setLevel(logging.CRITICAL + 1)

Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

CONTINUATION, TEXT, BINARY = WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY
CLOSE, PING, PONG = WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG

# How long a client may take to answer our close frame; after that the connection is dropped.
CLOSE_SECONDS = 5.0
# A handshake is one small request; who takes longer is not a client.
HANDSHAKE_SECONDS = 5
# The kernel gives up on a peer that acknowledges nothing for this long, also while it sends our last bytes.
USER_TIMEOUT_MS = 20_000
# The kernel's own buffer hides unsent output from us: kept small, so that the bound of ours means something.
KERNEL_SEND_BYTES = 64 * 1024
MAX_REASON_BYTES = 123
# Plain ASGI applications take messages one by one; this many may wait before reading stops.
MAX_WAITING_EVENTS = 64
TCP_USER_TIMEOUT = 18

_Utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True)
class LaneSettings:
    """The bounds of a lane, and whom it believes. Sizes in bytes."""

    max_message: int = 65536
    max_unsent: int = 1 << 20
    max_connections: int = 50_000
    subprotocols: tuple[str, ...] = ("centrifuge-json",)
    allowed_origins: frozenset[str] = frozenset()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()


class PicowsLane:
    """All connections of this lane: makes the protocol for a new one, and closes them all in the end."""

    def __init__(self, application: Application, settings: LaneSettings) -> None:
        self.application = application
        self.settings = settings
        self.connections: set[Socket] = set()
        self.is_draining = False

    def protocol(self) -> WSProtocol:
        """Make the protocol of one accepted connection."""
        return WSProtocol(
            None,
            None,
            False,
            self._upgrade,
            _silent,
            True,
            HANDSHAKE_SECONDS,
            False,
            0,
            0,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,
            self.settings.max_message,
            None,
            1024,
        )

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close all connections, spread over ``seconds``, and wait until their applications have ended."""
        self.is_draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        waiting = list(self.connections)
        # Leave the last part for the answers to our close frames.
        step = seconds * 0.7 / max(len(waiting), 1)
        for number, connection in enumerate(waiting):
            connection.close(code, reason)
            if step > 0.001 or number % 50 == 0:
                await asyncio.sleep(step if step > 0.001 else 0)
        tasks = [connection.task for connection in self.connections if connection.task]
        if tasks:
            await asyncio.wait(tasks, timeout=max(end - loop.time(), 0.1))
        for connection in list(self.connections):
            connection.abort()

    # --- the handshake

    def _upgrade(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        # Nothing may escape: picows answers an exception with its text.
        try:
            return self._decide(request)
        except Exception:
            log.exception("websocket handshake failed")
            return _refusal(500)

    def _decide(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        headers = request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            return _refusal(426, {"Upgrade": "websocket"})
        if "upgrade" not in _words(headers.getall("Connection", ())):
            return _refusal(400)
        # picows knows this one form only; Firefox sends "keep-alive, Upgrade".
        headers["Connection"] = "Upgrade"
        if headers.get("Sec-WebSocket-Version") != "13":
            return _refusal(426, {"Sec-WebSocket-Version": "13"})
        if len(headers.getall("Host", ())) != 1:
            return _refusal(400)
        if not self._is_origin_allowed(headers.get("Origin"), headers["Host"]):
            return _refusal(403)
        if self.is_draining or len(self.connections) >= self.settings.max_connections:
            return _refusal(503, {"Retry-After": "1"})
        offered = _words(headers.getall("Sec-WebSocket-Protocol", ()), lower=False)
        connection = Socket(self, request, offered)
        # It is part of the answer to the handshake, so it is chosen before the application runs.
        chosen = next((name for name in self.settings.subprotocols if name in offered), None)
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": chosen} if chosen else None)
        return WSUpgradeResponseWithListener(response, connection)

    def _is_origin_allowed(self, origin: str | None, host: str) -> bool:
        # Native apps send none. The own host is always one: the page served by us.
        if origin is None or urlsplit(origin).netloc == host:
            return True
        return origin in self.settings.allowed_origins


class Socket(WSListener):  # type: ignore[misc]
    """
    One websocket. For the application it is an ASGI connection and the extension ``roost.frames``.

    Class attributes stand for what most connections never need, which keeps an idle one small.
    """

    task: asyncio.Task[None] | None = None
    _is_closing = False
    _is_accepted = False
    _is_paused = False
    _on_message: OnMessage | None = None
    _kind: WSMsgType | None = None
    _buffer: bytearray | None = None
    _decoder: codecs.IncrementalDecoder | None = None
    _timer: asyncio.TimerHandle | None = None
    _waiter: asyncio.Future[None] | None = None
    _close_code: int | None = None

    def __init__(self, lane: PicowsLane, request: WSUpgradeRequest, offered: list[str]) -> None:
        super().__init__()
        self._lane = lane
        self._request: WSUpgradeRequest | None = request
        self._offered = offered
        self._events: list[dict[str, Any]] = [{"type": "websocket.connect"}]

    # --- picows' events

    def on_ws_connected(self, transport: Any) -> None:
        self._transport = transport
        self._stream = transport.underlying_transport
        self._stream.set_write_buffer_limits(high=self._lane.settings.max_unsent)
        sock = self._stream.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_SEND_BYTES)
        self._raw_write = self._stream.write
        self._lane.connections.add(self)
        scope, self._request = self._scope(), None
        self.task = asyncio.get_running_loop().create_task(self._run(scope))

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        kind = frame.msg_type
        if self._is_closing:
            if kind == CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            return self.close(1002, "reserved bit")
        if kind in (TEXT, BINARY):
            if self._kind is not None:
                return self.close(1002, "expected a continuation")
            payload = frame.get_payload_as_bytes()
            if not frame.fin:
                return self._begin_fragments(kind, payload)
            if kind == TEXT and not payload.isascii() and not _is_utf8(payload):
                return self.close(1007, "invalid UTF-8")
            self._deliver(payload, kind == TEXT)
        elif kind == CONTINUATION:
            self._continue(frame.get_payload_as_bytes(), frame.fin)
        elif kind == PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == CLOSE:
            self._answer_close(frame)

    def pause_writing(self) -> None:
        # The unsent output passed its bound: the client does not read.
        self.close(3008, "slow")

    def resume_writing(self) -> None:
        pass

    def on_ws_disconnected(self, transport: Any) -> None:
        self._is_closing = True
        self._kind = self._buffer = self._decoder = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._lane.connections.discard(self)
        self._put({"type": "websocket.disconnect", "code": self._close_code or _received_code(transport)})

    # --- fragments

    def _begin_fragments(self, kind: WSMsgType, payload: bytes) -> None:
        self._kind, self._buffer = kind, bytearray()
        self._decoder = _Utf8() if kind == TEXT else None
        self._continue(payload, is_last=False)

    def _continue(self, payload: bytes, is_last: bool) -> None:
        if self._kind is None or self._buffer is None:
            return self.close(1002, "unexpected continuation")
        if len(self._buffer) + len(payload) > self._lane.settings.max_message:
            return self.close(1009, "message too big")
        self._buffer += payload
        if self._decoder:
            try:
                self._decoder.decode(payload, is_last)
            except UnicodeDecodeError:
                return self.close(1007, "invalid UTF-8")
        if is_last:
            whole, is_text = bytes(self._buffer), self._decoder is not None
            self._kind = self._buffer = self._decoder = None
            self._deliver(whole, is_text)

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        if self._on_message is not None and self._is_accepted:
            # An error must not leave: picows would go on with the frames that it has read already.
            try:
                self._on_message(payload, is_text)
            except (Exception, asyncio.CancelledError):
                log.exception("handling a websocket message failed")
                self.close(1011, "internal error")
        else:
            body = {"text": payload.decode()} if is_text else {"bytes": payload}
            self._put({"type": "websocket.receive", **body})
            if len(self._events) >= MAX_WAITING_EVENTS:
                self.pause()

    # --- the extension

    def attach(self, on_message: OnMessage) -> None:
        self._on_message = on_message

    def write(self, frame: bytes) -> None:
        if not self._is_closing:
            self._raw_write(frame)

    def close(self, code: int, reason: str) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._close_code = code
        self._transport.send_close(code, _cut(reason))
        if self._is_paused:
            # Its answer, and its departure, are only noticed when read.
            self.resume()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

    def pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._stream.pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            with contextlib.suppress(RuntimeError):  # the transport is closing already
                self._stream.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once; the kernel forgets what it still holds for it."""
        if not self._transport.is_disconnected:
            sock = self._stream.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.disconnect(False)

    # --- ASGI

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._lane.application(scope, self._receive, self._send)
        except Exception:
            log.exception("a websocket application failed")
            self.close(1011, "internal error")
        finally:
            # An application that ends is done with its connection.
            self.close(1000, "done")

    async def _receive(self) -> dict[str, Any]:
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.pop(0)
        if self._is_paused and self._on_message is None and len(self._events) < MAX_WAITING_EVENTS // 2:
            self.resume()
        return event

    async def _send(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "websocket.accept":
                self._accept()
            case "websocket.send":
                text = event.get("text")
                self.write(text_frame(text.encode()) if text is not None else binary_frame(event["bytes"]))
            case "websocket.close":
                self.close(event.get("code") or 1000, event.get("reason") or "closed")

    def _accept(self) -> None:
        self._is_accepted = True
        if self._on_message is None:
            return
        early = [event for event in self._events if event["type"] == "websocket.receive"]
        self._events = [event for event in self._events if event["type"] != "websocket.receive"]
        for event in early:
            text = event.get("text")
            self._deliver(text.encode() if text is not None else event["bytes"], text is not None)

    def _put(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _answer_close(self, frame: Any) -> None:
        code = int(frame.get_close_code()) if frame.payload_size else 1000
        is_bad = code in (0, 1006) or code > 4999
        self.close(1002 if is_bad else code, "invalid close code" if is_bad else "")
        self._transport.disconnect()

    def _scope(self) -> dict[str, Any]:
        assert self._request
        path, _, query = self._request.path.partition(b"?")
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self._request.headers.items()
        ]
        peer = self._stream.get_extra_info("peername")
        client, scheme = believed_client(self._request.headers, peer, self._lane.settings.trusted_proxies)
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": scheme,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "subprotocols": self._offered,
            "client": client,
            "server": self._stream.get_extra_info("sockname"),
            "extensions": {EXTENSION: self},
        }


def believed_client(
    headers: Any, peer: tuple[str, int] | None, trusted: tuple[IPv4Network | IPv6Network, ...]
) -> tuple[list[Any] | None, str]:
    """
    Find the client's address and the scheme it used; a proxy is believed only if it is configured.

    Of a chain in X-Forwarded-For the last address counts that is no proxy of ours, because everything before it is the
    client's own word.
    """
    if not peer:
        return None, "ws"
    if not _is_trusted(peer[0], trusted):
        return [peer[0], peer[1]], "ws"
    scheme = "wss" if headers.get("X-Forwarded-Proto", "").lower() in ("https", "wss") else "ws"
    chain = _words(headers.getall("X-Forwarded-For", ()), lower=False)
    for address in reversed(chain):
        if not _is_trusted(address, trusted):
            return [address, 0], scheme
    return [peer[0], peer[1]], scheme


def _is_trusted(address: str, trusted: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


def _refusal(status: int, headers: dict[str, str] | None = None) -> WSUpgradeResponseWithListener:
    extra = {"Content-Length": "0", "Connection": "close", **(headers or {})}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_error_response(status, b"", extra_headers=extra), None
    )


def _words(values: Any, lower: bool = True) -> list[str]:
    """Split header values at their commas; empty words do not count."""
    words = [word.strip() for value in values for word in value.split(",")]
    return [word.lower() if lower else word for word in words if word]


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(reason: str) -> bytes:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def _received_code(transport: Any) -> int:
    handshake = transport.close_handshake
    received = handshake and handshake.recv
    if not received:
        return 1006
    return int(received.code) if received.code else 1005
