"""
The Channels consumer: one per websocket. It joins a socket to a ``Connection`` and waits for its end.

Where the server offers ``roost.frames``, frames go past ASGI's queues; where it does not (plain Daphne, uvicorn,
Channels' test communicator), the same connection is served by standard ASGI events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer

from .connection import Connection
from .engine import Engine, obtain
from .lane import EXTENSION, Lane
from .protocol.codec import Codec
from .protocol.codes import Disconnect
from .protocol.framing import TEXT
from .protocol.json import JSON
from .protocol.protobuf import PROTOBUF

# Unsent output of a connection on the fallback lane, in bytes; beyond it the client is too slow.
MAX_UNSENT_BYTES = 1 << 20

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class RealtimeConsumer(AsyncConsumer):  # type: ignore[misc]
    """Serves one websocket."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        engine = await obtain()
        subprotocol, codec = choose_encoding(scope)
        lane = scope.get("extensions", {}).get(EXTENSION)
        if lane is not None:
            await self._serve_frames(engine, codec, cast(Lane, lane), receive, send)
        else:
            await self._serve_events(engine, codec, subprotocol, receive, send)

    async def _serve_frames(self, engine: Engine, codec: Codec, lane: Lane, receive: Receive, send: Send) -> None:
        connection = engine.connection(lane, codec)
        lane.attach(connection.receive)
        try:
            await send({"type": "websocket.accept"})
            await receive()
        finally:
            connection.lost()

    async def _serve_events(
        self, engine: Engine, codec: Codec, subprotocol: str | None, receive: Receive, send: Send
    ) -> None:
        outbox = Outbox(send)
        connection = engine.connection(outbox, codec)
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        writing = asyncio.ensure_future(outbox.run())
        try:
            await self._read(connection, outbox, receive)
        finally:
            connection.lost()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _read(self, connection: Connection, outbox: Outbox, receive: Receive) -> None:
        while (event := await receive())["type"] != "websocket.disconnect":
            text = event.get("text")
            connection.receive(text.encode() if text is not None else event.get("bytes") or b"", text is not None)
            # ASGI has no other way to stop reading than not to ask.
            await outbox.readable.wait()


def choose_encoding(scope: dict[str, Any]) -> tuple[str | None, Codec]:
    """The subprotocol to select, only ever one that was offered, and the encoding to speak."""
    offered = scope.get("subprotocols") or ()
    for codec in (PROTOBUF, JSON):
        if codec.subprotocol in offered:
            return codec.subprotocol, codec
    query = parse_qs(scope.get("query_string", b""))
    asked = query.get(b"cf_protocol") or query.get(b"format")
    return None, PROTOBUF if asked == [b"protobuf"] else JSON


class Outbox:
    """The way out over ASGI events: finished frames are unwrapped again, and wait in a bounded queue."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._close: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()

    def write(self, frame: bytes) -> None:
        if self._close:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._wake.set()
        if self._bytes > MAX_UNSENT_BYTES:
            self._frames.clear()
            self.close(Disconnect.SLOW.value, Disconnect.SLOW.reason)

    def close(self, code: int, reason: str) -> None:
        if self._close is None:
            self._close = (code, reason)
            self._wake.set()
            self.readable.set()

    def pause(self) -> None:
        if self._close is None:
            self.readable.clear()

    def resume(self) -> None:
        self.readable.set()

    async def run(self) -> None:
        """Send what is written, until closed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                self._bytes -= len(frame)
                await self.send_frame(frame)
            if self._close:
                return await self.send_close(*self._close)

    async def send_frame(self, frame: bytes) -> None:
        payload = unwrapped(frame)
        is_text = frame[0] == TEXT
        await self._send({"type": "websocket.send", **({"text": payload.decode()} if is_text else {"bytes": payload})})

    async def send_close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


def unwrapped(frame: bytes) -> bytes:
    """What is in a finished frame."""
    size = frame[1]
    return frame[2 if size < 126 else 4 if size == 126 else 10 :]
