"""
Daphne, for HTTP, and for websockets where the front door does not hand them to picows.

Mended here: the close reason, which clients need, is transmitted; a websocket is not closed after 24 hours; what a
proxy says of the client is believed only from configured ones. Not mended, hence "fallback": no back-pressure in
either direction.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from django.utils.datastructures import MultiValueDict

from .frames import believed_client

# Codes that Autobahn lets an application send.
_SENDABLE = range(3000, 5000)
EVER = -1


class ReasoningProtocol(WebSocketProtocol):  # type: ignore[misc]
    """Closes with the application's reason."""

    def handle_reply(self, message: dict[str, Any]) -> None:
        if message.get("type") == "websocket.close" and self.state == self.STATE_OPEN:
            code = message.get("code") or 1000
            # The one thing it cannot say is 1009; the protocol's "bad request" is as terminal.
            self.sendClose(
                code=code if code == 1000 or code in _SENDABLE else 3501, reason=message.get("reason") or None
            )
        else:
            super().handle_reply(message)


class ReasoningFactory(WebSocketFactory):  # type: ignore[misc]
    protocol = ReasoningProtocol


class DaphneServer(Server):  # type: ignore[misc]
    """A Daphne that listens nowhere: the front door hands it sockets."""

    def __init__(
        self, application: Any, *, trusted_proxies: tuple[IPv4Network | IPv6Network, ...], **options: Any
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="roost-daphne-")
        super().__init__(
            application=application,
            # It insists on an endpoint of its own; a private socket keeps it content.
            endpoints=[f"unix:{Path(self._folder.name) / 'unused.sock'}"],
            signal_handlers=False,
            websocket_timeout=EVER,
            server_name="roost",
            verbosity=1,
            **options,
        )
        self.trusted_proxies = trusted_proxies
        self.connections: dict[Any, dict[str, Any]] = {}

    def start(self) -> None:
        """Make the factories, and begin to look after time-outs; the reactor is run by others."""
        from twisted.internet import reactor
        from twisted.logger import globalLogBeginner

        globalLogBeginner.beginLoggingTo([lambda _: None], redirectStandardIO=False, discardBuffer=True)
        self.http_factory = HTTPFactory(self)
        self.ws_factory = ReasoningFactory(self, server=self.server_name)
        self.ws_factory.setProtocolOptions(
            autoPingTimeout=self.ping_timeout,
            allowNullOrigin=True,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
        )
        reactor.callLater(1, self.application_checker)  # type: ignore[attr-defined]
        reactor.callLater(2, self.timeout_checker)  # type: ignore[attr-defined]

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        self._believe(scope)
        return super().create_application(protocol, scope)

    def _believe(self, scope: dict[str, Any]) -> None:
        peer = scope.get("client")
        if not peer:
            return
        headers = Headers(scope["headers"])
        client, scheme = believed_client(headers, (peer[0], peer[1]), self.trusted_proxies)
        scope["client"] = client
        secure = scheme == "wss"
        if scope["type"] == "websocket":
            scope["scheme"] = "wss" if secure else "ws"
            # An empty header offers nothing.
            scope["subprotocols"] = [name for name in scope["subprotocols"] if name]
        else:
            scope["scheme"] = "https" if secure else "http"

    def adopt(self, client: socket.socket) -> None:
        """Serve an accepted socket."""
        from twisted.internet import reactor

        # The reactor takes a descriptor of its own.
        reactor.adoptStreamConnection(client.fileno(), client.family, self.http_factory)  # type: ignore[attr-defined]
        client.close()

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close websockets, spread over ``seconds``, and let requests finish within them."""
        end = asyncio.get_running_loop().time() + seconds
        sockets = [p for p in self.connections if isinstance(p, WebSocketProtocol)]
        for protocol in sockets:
            if protocol.state == protocol.STATE_OPEN:
                protocol.sendClose(code=code, reason=reason)
            await asyncio.sleep(seconds * 0.7 / len(sockets))
        tasks = [
            about["application_instance"] for about in self.connections.values() if "application_instance" in about
        ]
        if tasks:
            await asyncio.wait(tasks, timeout=max(end - asyncio.get_running_loop().time(), 0.1))

    def stop(self) -> None:
        self.kill_all_applications()
        self._folder.cleanup()


class Headers:
    """ASGI's list of headers, asked like a request's."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._values: MultiValueDict[str, str] = MultiValueDict()
        for name, value in pairs:
            self._values.appendlist(name.decode("latin-1").lower(), value.decode("latin-1"))

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name.lower(), default) or default

    def getall(self, name: str, default: Any = ()) -> list[str]:
        return self._values.getlist(name.lower(), list(default))
