"""
Our websocket lane as a whole: takes accepted sockets from the front door, decides on handshakes, drains.

``docs/decisions/0006`` says why there is one; ``frames.Socket`` is one websocket of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from picows import WSAutoPingStrategy, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from models import tasks

from .deflate import DeflateSocket, negotiate
from .frames import Socket
from .peers import Origins, Proxies, words

log = logging.getLogger(__name__)

Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

# A handshake is one small request; who takes longer is not a client.
HANDSHAKE_SECONDS = 5.0
# The kernel gives up on a peer that acknowledges nothing for this long, also while it sends our last bytes.
USER_TIMEOUT_MS = 20_000
# The kernel's own buffers hide what is unsent and unread from us: kept small, so that our bounds mean something.
KERNEL_BYTES = 64 * 1024
# Before a connection is closed in a drain it is not read for this long, so that answers in flight still arrive.
FINISH_SECONDS = 0.5
# What picows allocates for reading; it grows to the largest message of the connection.
READ_BUFFER_BYTES = 2048


@dataclass(frozen=True)
class LaneSettings:
    """The bounds of a lane, and whom it lets in. Sizes in bytes."""

    path: bytes = b"/connection/websocket"
    max_message: int = 65536
    max_unsent: int = 1 << 20
    max_connections: int = 50_000
    # Whether to accept permessage-deflate where a client offers it.
    may_compress: bool = False
    # In the order of preference.
    subprotocols: tuple[str, ...] = ("centrifuge-protobuf", "centrifuge-json")
    origins: Origins = field(default_factory=Origins)
    proxies: Proxies = field(default_factory=Proxies)

    @property
    def max_waiting(self) -> int:
        """The part of ``max_unsent`` that may wait in the process: the kernel holds twice its buffer's nominal size."""
        return max(self.max_unsent - 2 * KERNEL_BYTES, self.max_unsent // 4)


class PicowsLane:
    """All connections of this lane: takes accepted sockets, and closes them all in the end."""

    def __init__(self, application: Application, settings: LaneSettings) -> None:
        self.application = application
        self.settings = settings
        self.connections: set[Socket] = set()
        self.is_draining = False
        self._is_empty = asyncio.Event()
        self._handing_over = tasks.Group()

    def adopt(self, client: socket.socket) -> None:
        """Serve an accepted socket."""
        self._handing_over.spawn(self._take(client))

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
                async with asyncio.timeout(seconds):
                    await self._is_empty.wait()
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
        answer: dict[str, str] = {}
        # It is part of the answer to the handshake, so it is chosen before the application runs.
        if chosen := next((name for name in self._lane.settings.subprotocols if name in offered), None):
            answer["Sec-WebSocket-Protocol"] = chosen
        self._socket = self._make_socket(request, offered, answer)
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(answer), self._socket)

    def _make_socket(self, request: WSUpgradeRequest, offered: list[str], answer: dict[str, str]) -> Socket:
        if self._lane.settings.may_compress:
            agreed = negotiate(request.headers.getall("Sec-WebSocket-Extensions", ()))
            if agreed:
                answer["Sec-WebSocket-Extensions"], window = agreed
                return DeflateSocket(self._lane, request, offered, window)
        return Socket(self._lane, request, offered)

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


def _refusal(status: int, headers: dict[str, str] | None = None) -> WSUpgradeResponseWithListener:
    extra = {"Content-Length": "0", "Connection": "close", **(headers or {})}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_error_response(status, b"", extra_headers=extra), None
    )
