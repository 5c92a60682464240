"""The socket layer of the server API: uvicorn's HTTP protocol, ten times cheaper for each request than Daphne's."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from models import tasks

from .peers import Proxies
from .picows_lane import Application

# Backends keep their connections; proxies give them up after a minute at most.
KEEP_ALIVE_SECONDS = 75
# What a turn of the loop may hold back.
CORKED_BYTES = 32 * 1024


class UvicornLane:
    """All connections of this lane, which is for paths that begin with ``own``: takes accepted sockets."""

    def __init__(self, application: Application, *, own: str, proxies: Proxies) -> None:
        self._application = application
        self._own = own
        self._proxies = proxies
        self._config = Config(
            self._serve,
            http=HttpToolsProtocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._config.load()
        self._state = ServerState()
        self._adopting = tasks.Group()

    def adopt(self, client: socket.socket) -> None:
        """Serve an accepted socket."""
        self._adopting.spawn(self._take(client))

    async def _take(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Protocol(self._config, self._state, {}, loop), client)
        except OSError:
            client.close()

    async def _serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve the root application, whatever is asked for: a proxy may reuse a connection for anything."""
        # The server API does not ask where a request comes from; it is the only one that comes at message rate.
        if not scope["path"].startswith(self._own):
            self._look_through_proxies(scope)
        await self._application(scope, receive, send)

    def _look_through_proxies(self, scope: dict[str, Any]) -> None:
        headers = scope["headers"]
        scope["client"], is_secure = self._proxies.client(
            scope["client"],
            lambda name: [value.decode("latin-1") for key, value in headers if key.decode("latin-1") == name],
        )
        scope["scheme"] = "https" if is_secure else "http"

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Let requests finish within ``seconds``, and close what is idle."""
        end = time.monotonic() + seconds
        for protocol in list(self._state.connections):
            protocol.shutdown()
        while (running := {*self._state.tasks}) and (left := end - time.monotonic()) > 0:
            await asyncio.wait(running, timeout=left)
        for task in self._state.tasks:
            task.cancel()


class _Protocol(HttpToolsProtocol):
    """uvicorn writes the head and the body of an answer separately, and a system call is the dearest part of one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]


class Corked:
    """A transport that passes on together what is written in one turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        # The transport has to know of what is much, or it could not ask for patience.
        if self._size >= CORKED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces:
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
