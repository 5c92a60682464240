"""
Daphne, for HTTP, and for websockets where the front door does not hand them to picows.

Mended here: the close reason, which clients need, is transmitted; a websocket is not closed after 24 hours; an empty
message is sent; SIGTERM drains; forwarded addresses are believed from configured proxies only. Not mended, hence
"fallback": no back-pressure in either direction.

Importing this module makes the event loop and installs Twisted's reactor on it: Daphne looks for one when imported.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

loop = uvloop.new_event_loop()
asyncio.set_event_loop(loop)

from twisted.internet import asyncioreactor  # noqa: E402

asyncioreactor.install(loop)  # type: ignore[no-untyped-call]

from daphne.http_protocol import HTTPFactory  # noqa: E402
from daphne.server import Server  # noqa: E402
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol  # noqa: E402
from twisted.internet import reactor as _reactor  # noqa: E402
from twisted.logger import STDLibLogObserver, globalLogBeginner  # noqa: E402

from .peers import Proxies  # noqa: E402

reactor: Any = _reactor

# Codes that Autobahn lets an application send besides 1000.
_SENDABLE = range(3000, 5000)
# It refuses 1009 and its like; "internal error" makes clients come back just as well.
_INSTEAD = 3004
EVER = -1
CLOSE_SECONDS = 5.0


class ReasoningProtocol(WebSocketProtocol):  # type: ignore[misc]
    """Closes with the application's reason, and sends empty messages."""

    def handle_reply(self, message: dict[str, Any]) -> None:
        if self.state != self.STATE_OPEN:
            return super().handle_reply(message)  # type: ignore[no-any-return]
        match message:
            case {"type": "websocket.close"}:
                self.close_with(message.get("code") or 1000, message.get("reason") or "")
            case {"type": "websocket.send", "text": ""} | {"type": "websocket.send", "bytes": b""}:
                self.serverSend("" if message.get("text") == "" else b"", message.get("text") != "")
            case _:
                super().handle_reply(message)

    def close_with(self, code: int, reason: str) -> None:
        self.sendClose(code=code if code == 1000 or code in _SENDABLE else _INSTEAD, reason=reason or None)


class ReasoningFactory(WebSocketFactory):  # type: ignore[misc]
    """Makes them."""

    protocol = ReasoningProtocol


class DaphneServer(Server):  # type: ignore[misc]
    """A Daphne that listens nowhere: the front door hands it sockets."""

    def __init__(self, application: Any, *, proxies: Proxies, max_message: int) -> None:
        super().__init__(
            application=application,
            # It insists on one, and opens it in `run()`, which is not ours.
            endpoints=["unused"],
            signal_handlers=False,
            websocket_timeout=EVER,
            websocket_max_message_size=max_message,
            websocket_max_frame_size=max_message,
            server_name="roost",
        )
        self._proxies = proxies
        self.connections: dict[Any, dict[str, Any]] = {}
        self.http_factory = HTTPFactory(self)
        self.ws_factory = ReasoningFactory(self, server=self.server_name)
        self.ws_factory.setProtocolOptions(
            autoPingTimeout=self.ping_timeout,
            allowNullOrigin=True,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            closeHandshakeTimeout=CLOSE_SECONDS,
            # It would drop the connection without a word where the protocol has a close code.
            failByDrop=False,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
        )

    def start(self) -> None:
        """Begin to look after time-outs and applications that failed."""
        reactor.callLater(1, self.application_checker)
        reactor.callLater(2, self.timeout_checker)

    def adopt(self, client: socket.socket) -> None:
        """Serve an accepted socket."""
        # The reactor takes a descriptor of its own.
        try:
            reactor.adoptStreamConnection(client.fileno(), client.family, self.http_factory)
        finally:
            client.close()

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """Access logs are the proxy's."""

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        peer, headers = scope["client"], scope["headers"]
        scope["client"], is_secure = self._proxies.client(
            (peer[0], peer[1]) if peer else None,
            lambda name: [value.decode("latin-1") for key, value in headers if key.decode("latin-1") == name],
        )
        if scope["type"] == "websocket":
            scope["scheme"] = "wss" if is_secure else "ws"
            # An empty header offers nothing.
            scope["subprotocols"] = [name for name in scope["subprotocols"] if name]
        else:
            scope["scheme"] = "https" if is_secure else "http"
        return super().create_application(protocol, scope)

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close websockets, spread over the first half of ``seconds``, and let requests finish within them."""
        end = time.monotonic() + seconds
        sockets = [protocol for protocol in self.connections if isinstance(protocol, ReasoningProtocol)]
        for number, protocol in enumerate(sockets):
            loop.call_later(number * seconds / 2 / len(sockets), _close, protocol, code, reason)
        # Kept-alive connections may bring further requests meanwhile.
        while (tasks := self._tasks()) and (left := end - time.monotonic()) > 0:
            await asyncio.wait(tasks, timeout=left)
        for task in self._tasks():
            task.cancel()

    def _tasks(self) -> list[asyncio.Future[None]]:
        found = (details.get("application_instance") for details in self.connections.values())
        return [task for task in found if task and not task.done()]


@contextmanager
def running_reactor() -> Iterator[None]:
    """Run Twisted's reactor for as long as the caller runs the loop."""
    observer: Any = STDLibLogObserver("twisted")
    logging.getLogger("twisted").setLevel(logging.WARNING)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    reactor.startRunning(installSignalHandlers=False)
    try:
        yield
    finally:
        reactor.fireSystemEvent("shutdown")


def _close(protocol: ReasoningProtocol, code: int, reason: str) -> None:
    if protocol.state == protocol.STATE_OPEN:
        protocol.close_with(code, reason)
