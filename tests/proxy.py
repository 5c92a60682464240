"""An HTTP proxy on this machine that leads every CONNECT to one local service, whatever address it asks for."""

from __future__ import annotations

import socket
import socketserver
import threading
from types import TracebackType
from typing import Self


class ConnectProxy:
    """A context manager; ``url`` is for HTTPS_PROXY, ``asked`` the addresses that were asked for."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Tunnel)
        self._server.proxy, self._server.port = self, port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    proxy: ConnectProxy
    port: int


class _Tunnel(socketserver.StreamRequestHandler):
    rbufsize = 0
    server: _Server

    def handle(self) -> None:
        method, address, _ = self.rfile.readline().decode().split(" ")
        while self.rfile.readline().strip():
            pass
        self.server.proxy.asked.append(address)
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server.port)) as service:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(service, self.connection), daemon=True)
            back.start()
            _pour(self.connection, service)
            back.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
