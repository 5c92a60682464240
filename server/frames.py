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
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from picows import (
    WSAutoPingStrategy,
    WSListener,
    WSMsgType,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from consumers.lane import EXTENSION, OnMessage
from consumers.protocol.framing import binary_frame, text_frame

from .peers import Origins, Proxies, words

log = logging.getLogger(__name__)

Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

CONTINUATION, TEXT, BINARY = WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY
CLOSE, PING = WSMsgType.CLOSE, WSMsgType.PING

# A handshake is one small request; who takes longer is not a client.
HANDSHAKE_SECONDS = 5.0
# How long a client may take to answer our close frame; after that the connection is dropped.
CLOSE_SECONDS = 5.0
# What a closing connection may still send before it is not even read any more.
MAX_IGNORED_FRAMES = 1000
# The kernel gives up on a peer that acknowledges nothing for this long, also while it sends our last bytes.
USER_TIMEOUT_MS = 20_000
# The kernel's own buffers hide what is unsent and unread from us: kept small, so that our bounds mean something.
KERNEL_BYTES = 64 * 1024
# RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code.
MAX_REASON_BYTES = 123
# Messages that wait for an application which takes them one by one, or has not accepted yet, before reading stops.
MAX_WAITING_EVENTS = 64
# Frames that carry nothing to speak of (pings, crumbs of a message) are counted; more in a second is a flood.
MAX_CRUMBS_PER_SECOND = 256
CRUMB_BYTES = 32
# Before a connection is closed in a drain it is not read for this long, so that answers in flight still arrive.
FINISH_SECONDS = 0.5
# What picows allocates for reading; it grows to the largest message of the connection.
READ_BUFFER_BYTES = 2048

_Utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True)
class LaneSettings:
    """The bounds of a lane, and whom it lets in. Sizes in bytes."""

    path: bytes = b"/connection/websocket"
    max_message: int = 65536
    max_unsent: int = 1 << 20
    max_connections: int = 50_000
    subprotocols: tuple[str, ...] = ("centrifuge-json",)
    origins: Origins = field(default_factory=Origins)
    proxies: Proxies = field(default_factory=Proxies)


class PicowsLane:
    """All connections of this lane: takes accepted sockets, and closes them all in the end."""

    def __init__(self, application: Application, settings: LaneSettings) -> None:
        self.application = application
        self.settings = settings
        self.connections: set[Socket] = set()
        self.is_draining = False
        self._is_empty = asyncio.Event()
        self._handing_over: set[asyncio.Task[None]] = set()

    def adopt(self, client: socket.socket) -> None:
        """Serve an accepted socket."""
        task = asyncio.get_running_loop().create_task(self._take(client))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close all connections, spread over ``seconds``, and wait until their applications have ended."""
        self.is_draining = True
        self._is_empty.clear()
        loop = asyncio.get_running_loop()
        finish = min(FINISH_SECONDS, seconds / 4)
        # The last quarter is for the answers to our close frames.
        step = seconds / 2 / max(len(self.connections), 1)
        for number, connection in enumerate(list(self.connections)):
            loop.call_later(number * step, connection.pause)
            loop.call_later(number * step + finish, connection.close, code, reason)
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), seconds)
        for connection in list(self.connections):
            connection.close(code, reason)
            connection.abort()
            connection.task.cancel()

    def forget(self, connection: Socket) -> None:
        """A connection and its application have both ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._is_empty.set()

    async def _take(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        handshake = Handshake(self)
        try:
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
            transport, _ = await loop.connect_accepted_socket(lambda: self._protocol(handshake), client)
        except OSError:
            client.close()  # it has gone already
            return
        if not handshake.is_done:
            # picows' own time-out leaves an exception behind that nobody retrieves.
            handshake.timer = loop.call_later(HANDSHAKE_SECONDS, transport.abort)

    def _protocol(self, handshake: Handshake) -> WSProtocol:
        return WSProtocol(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=handshake,
            logger=handshake,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            # It would answer pings with reserved bits too.
            enable_auto_pong=False,
            max_frame_size=self.settings.max_message,
            extra_headers=None,
            read_buffer_init_size=READ_BUFFER_BYTES,
        )


class Handshake:
    """
    What picows is given for a connection: the maker of its listener, and the logger that it reports to.

    Its reports are the only way to learn that it found an error in a frame and is closing the connection itself. An
    object of our own also spares the ``logging.Logger`` that picows makes for each connection.
    """

    __slots__ = ("_lane", "_socket", "is_done", "timer")

    def __init__(self, lane: PicowsLane) -> None:
        self._lane = lane
        self._socket: Socket | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_done = False

    def __call__(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        self.is_done = True
        if self.timer:
            self.timer.cancel()
            self.timer = None
        # Nothing may escape: picows answers an exception with its text.
        try:
            return self._decide(request)
        except Exception:
            log.exception("websocket handshake failed")
            return _refusal(500)

    def _decide(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        settings, headers = self._lane.settings, request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            return _refusal(426, {"Upgrade": "websocket"})
        if "upgrade" not in (word.lower() for word in words(headers.getall("Connection", ()))):
            return _refusal(400)
        # picows knows this one form only; Firefox sends "keep-alive, Upgrade".
        headers["Connection"] = "Upgrade"
        if request.method != b"GET" or len(headers.getall("Host", ())) != 1:
            return _refusal(400)
        if headers.getall("Sec-WebSocket-Version", ()) != ["13"]:
            return _refusal(426, {"Sec-WebSocket-Version": "13"})
        if request.path.partition(b"?")[0] != settings.path:
            return _refusal(404)
        if not settings.origins.allow(headers.get("Origin"), headers["Host"]):
            return _refusal(403)
        if self._lane.is_draining or len(self._lane.connections) >= settings.max_connections:
            return _refusal(503, {"Retry-After": "1"})
        return self._accept(request)

    def _accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        offered = words(request.headers.getall("Sec-WebSocket-Protocol", ()))
        self._socket = Socket(self._lane, request, offered)
        # It is part of the answer to the handshake, so it is chosen before the application runs.
        chosen = next((name for name in self._lane.settings.subprotocols if name in offered), None)
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": chosen} if chosen else None)
        return WSUpgradeResponseWithListener(response, self._socket)

    # --- a logger, for picows

    def isEnabledFor(self, level: int) -> bool:  # logging's name
        return False

    def debug(self, message: str, *args: object) -> None:
        """What picows tells of its working is of no use here."""

    log = info = warning = debug

    def error(self, message: str, *args: object) -> None:
        """Hear that picows is closing the connection because of what the client sent."""
        if self._socket:
            self._socket.on_refused()

    def exception(self, message: str, *args: object) -> None:
        """Hear of a mistake of ours, or of picows'."""
        log.exception(message, *args)
        self.error(message)


class Socket(WSListener):
    """
    One websocket. For the application it is an ASGI connection and the extension ``roost.frames``.

    Class attributes stand for what most connections never need, which keeps an idle one small.
    """

    task: asyncio.Task[None]
    _is_closing = False
    _is_accepted = False
    _is_paused = False
    _has_ended = False
    _is_gone = False
    _is_run = False
    _on_message: OnMessage | None = None
    _kind: WSMsgType | None = None
    _buffer: bytearray | None = None
    _decoder: codecs.IncrementalDecoder | None = None
    _timer: asyncio.TimerHandle | None = None
    _waiter: asyncio.Future[None] | None = None
    _ignored = 0
    _crumbs = 0
    _crumbs_since = 0.0

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
        self._write = self._stream.write
        self._lane.connections.add(self)
        scope = self._scope()
        # Nobody reads them any more, and picows keeps them for as long as the connection lives.
        transport.request.headers.clear()
        transport.response.headers.clear()
        self.task = asyncio.get_running_loop().create_task(self._run(scope))

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if self._is_closing:
            return self._on_late_frame(frame)
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            return self.close(1002, "reserved bit")
        kind = frame.msg_type
        if kind is TEXT or kind is BINARY:
            if self._kind is not None:
                return self.close(1002, "expected a continuation")
            payload = frame.get_payload_as_bytes()
            if not frame.fin:
                return self._begin_fragments(kind, payload)
            if kind is TEXT and not payload.isascii() and not _is_utf8(payload):
                return self.close(1007, "invalid UTF-8")
            self._deliver(payload, kind is TEXT)
        elif kind is CONTINUATION:
            self._continue(frame.get_payload_as_bytes(), frame.fin)
        elif kind is CLOSE:
            self._answer_close(frame)
        else:
            self._count_crumb()
            if kind is PING:
                transport.send_pong(frame.get_payload_as_bytes())

    def pause_writing(self) -> None:
        # The unsent output passed its bound: the client does not read.
        self.close(3008, "slow")

    def resume_writing(self) -> None:
        """Nothing was stopped: who is slow is closed."""

    def on_refused(self) -> None:
        """picows closes the connection itself; see to it that it ends also if the client does not read."""
        if not self._is_closing:
            self._is_closing = True
            self._drop_later()

    def on_ws_disconnected(self, transport: Any) -> None:
        self._is_closing = True
        self._kind = self._buffer = self._decoder = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._end(_close_code(transport))
        self._is_gone = True
        self._leave()

    # --- fragments, and what else is not a whole message

    def _begin_fragments(self, kind: WSMsgType, payload: bytes) -> None:
        self._kind, self._buffer = kind, bytearray()
        self._decoder = _Utf8() if kind is TEXT else None
        self._continue(payload, is_last=False)

    def _continue(self, payload: bytes, is_last: bool) -> None:
        if self._buffer is None:
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
        elif len(payload) < CRUMB_BYTES:
            self._count_crumb()

    def _count_crumb(self) -> None:
        self._crumbs += 1
        if self._crumbs % MAX_CRUMBS_PER_SECOND == 0:
            now = asyncio.get_running_loop().time()
            if now - self._crumbs_since < 1:
                self.close(1008, "flood")
            self._crumbs_since = now

    def _answer_close(self, frame: Any) -> None:
        code = int(frame.get_close_code()) if frame.payload_size else 1000
        is_bad = code in (0, 1006) or code > 4999
        self.close(1002 if is_bad else code, "invalid close code" if is_bad else "")
        self._transport.disconnect()

    def _on_late_frame(self, frame: Any) -> None:
        if frame.msg_type is CLOSE:
            self._transport.disconnect()
        self._ignored += 1
        if self._ignored == MAX_IGNORED_FRAMES:
            # It does not mean to stop. What it sends now waits in its own kernel until it is dropped.
            self._pause_reading()

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        if self._is_accepted and self._on_message is not None:
            # An error must not leave: picows would go on with the frames that it has read already.
            try:
                self._on_message(payload, is_text)
            except (Exception, asyncio.CancelledError):
                log.exception("handling a websocket message failed")
                self.close(1011, "internal error")
        else:
            self._put({"type": "websocket.receive", **({"text": payload.decode()} if is_text else {"bytes": payload})})
            if len(self._events) >= MAX_WAITING_EVENTS:
                self.pause()

    # --- the extension

    def attach(self, on_message: OnMessage) -> None:
        self._on_message = on_message

    def write(self, frame: bytes) -> None:
        # picows closes by itself too; a frame after its close frame would break the protocol.
        if not self._is_closing:
            self._write(frame)

    def close(self, code: int, reason: str) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._transport.send_close(code, _cut(reason))
        # Its answer, and its departure, are only noticed when read.
        self.resume()
        self._drop_later()
        self._end(code)

    def pause(self) -> None:
        if not self._is_paused and not self._is_closing:
            self._is_paused = True
            self._pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            with contextlib.suppress(RuntimeError):  # the transport is closing already
                self._stream.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once; the kernel forgets what it still holds for it."""
        if not self._transport.is_disconnected:
            with contextlib.suppress(OSError):
                sock = self._stream.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.disconnect(False)

    def _pause_reading(self) -> None:
        with contextlib.suppress(RuntimeError):  # the transport is closing already
            self._stream.pause_reading()

    def _drop_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

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
            self._is_run = True
            self._leave()

    def _leave(self) -> None:
        if self._is_gone and self._is_run:
            self._lane.forget(self)

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
                self.close(event.get("code") or 1000, event.get("reason") or "")

    def _accept(self) -> None:
        self._is_accepted = True
        if self._on_message is None:
            return
        early = [event for event in self._events if event["type"] == "websocket.receive"]
        self._events = [event for event in self._events if event["type"] != "websocket.receive"]
        # It was us who paused, if anybody: the application has seen nothing yet.
        self.resume()
        for event in early:
            text = event.get("text")
            self._deliver(text.encode() if text is not None else event["bytes"], text is not None)

    def _end(self, code: int) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._put({"type": "websocket.disconnect", "code": code})

    def _put(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _scope(self) -> dict[str, Any]:
        assert self._request
        request, self._request = self._request, None
        path, _, query = request.path.partition(b"?")
        peer = self._stream.get_extra_info("peername")
        client, is_secure = self._lane.settings.proxies.client(
            peer[:2] if peer else None, lambda name: request.headers.getall(name, ())
        )
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_secure else "ws",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()
            ],
            "subprotocols": self._offered,
            "client": client,
            "server": self._stream.get_extra_info("sockname")[:2],
            "extensions": {EXTENSION: self},
        }


def _refusal(status: int, headers: dict[str, str] | None = None) -> WSUpgradeResponseWithListener:
    extra = {"Content-Length": "0", "Connection": "close", **(headers or {})}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_error_response(status, b"", extra_headers=extra), None
    )


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(reason: str) -> bytes:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def _close_code(transport: Any) -> int:
    """What the connection ended with, as the application is told: the client's word, else picows', else none."""
    handshake = transport.close_handshake
    if not handshake:
        return 1006
    if handshake.recv:
        return int(handshake.recv.code) or 1005
    return int(handshake.sent.code)
