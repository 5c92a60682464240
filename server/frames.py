"""
One websocket of our lane: picows below, ASGI above.

picows parses frames; this adds what RFC 6455 leaves to its user (fragments, UTF-8, reserved bits, close codes), bounds
in both directions, the ASGI events, and the extension ``roost.frames``. ``picows_lane`` makes one after each handshake.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from picows import WSListener, WSMsgType, WSUpgradeRequest

from consumers.lane import EXTENSION, OnMessage
from consumers.protocol.framing import binary_frame, text_frame

if TYPE_CHECKING:
    from .picows_lane import PicowsLane

log = logging.getLogger(__name__)

CONTINUATION, TEXT, BINARY = WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY
CLOSE, PING = WSMsgType.CLOSE, WSMsgType.PING

# How long a client may take to answer our close frame; after that the connection is dropped.
CLOSE_SECONDS = 5.0
# What a closing connection may still send before it is not even read any more.
MAX_IGNORED_FRAMES = 1000
# RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code.
MAX_REASON_BYTES = 123
# Messages that wait for an application which takes them one by one, or has not accepted yet, before reading stops.
MAX_WAITING_EVENTS = 64
# Frames that carry nothing to speak of (pings, crumbs of a message) are counted; more in a second is a flood.
MAX_CRUMBS_PER_SECOND = 256
CRUMB_BYTES = 32
# Above this the transport has enough to send, and what is written waits here: it is cheaper to keep, and to drop.
TRANSPORT_BYTES = 32 * 1024
# What a frame that waits costs beside its bytes: the object, and its place in the queue.
FRAME_OVERHEAD = 48

_Utf8 = codecs.getincrementaldecoder("utf-8")


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
    _backlog: deque[bytes] | None = None
    _backlog_bytes = 0
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
        self._stream.set_write_buffer_limits(high=TRANSPORT_BYTES)
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
            return self._on_reserved(frame)
        kind = frame.msg_type
        if kind is TEXT or kind is BINARY:
            if self._kind is not None:
                return self.close(1002, "expected a continuation")
            payload = frame.get_payload_as_bytes()
            if not frame.fin:
                return self._begin_fragments(kind, payload, _Utf8() if kind is TEXT else None)
            if kind is TEXT and not payload.isascii() and not is_utf8(payload):
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
        if self._backlog is None:
            self._backlog = deque()
            self._backlog_bytes = 0

    def resume_writing(self) -> None:
        while self._backlog and self._stream.get_write_buffer_size() <= TRANSPORT_BYTES:
            self._write(self._next_piece(self._backlog))
        if not self._backlog:
            self._backlog = None

    def on_refused(self) -> None:
        """picows closes the connection itself; see to it that it ends also if the client does not read."""
        if not self._is_closing:
            self._is_closing = True
            self._drop_later()

    def on_ws_disconnected(self, transport: Any) -> None:
        self._is_closing = True
        self._kind = self._buffer = self._decoder = self._backlog = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._end(_close_code(transport))
        self._is_gone = True
        self._leave()

    # --- fragments, and what else is not a whole message

    def _on_reserved(self, frame: Any) -> None:
        """Bits that an extension gives a meaning to; this has none."""
        self.close(1002, "reserved bit")

    def _begin_fragments(self, kind: WSMsgType, payload: bytes, decoder: codecs.IncrementalDecoder | None) -> None:
        self._kind, self._buffer, self._decoder = kind, bytearray(), decoder
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
            whole, is_text = bytes(self._buffer), self._kind is TEXT
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
        # Once closing, a frame would come after the close frame.
        if self._is_closing:
            return
        if self._backlog is None:
            self._write(frame)
        else:
            self._keep(frame, self._backlog)

    def _keep(self, frame: bytes, backlog: deque[bytes]) -> None:
        """The client reads slower than it is written to."""
        backlog.append(frame)
        self._backlog_bytes += len(frame) + FRAME_OVERHEAD
        if self._backlog_bytes + self._stream.get_write_buffer_size() > self._lane.settings.max_waiting:
            # It does not read, and recovers later. What waits is dropped: it would only keep the close frame from it.
            self._backlog = None
            self.close(3008, "slow")

    def _next_piece(self, backlog: deque[bytes]) -> bytes:
        """Join what the transport takes at once: it needs much more memory for each piece than we do."""
        piece, size = [], 0
        while backlog and size <= TRANSPORT_BYTES:
            piece.append(backlog.popleft())
            size += len(piece[-1])
        self._backlog_bytes -= size + FRAME_OVERHEAD * len(piece)
        return b"".join(piece)

    def close(self, code: int, reason: str) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if self._backlog:
            self._write(b"".join(self._backlog))
        self._backlog = None
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


def is_utf8(payload: bytes) -> bool:
    """Whether text is text."""
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
