"""
The front door: one port, several socket layers.

It accepts, looks at a connection's first bytes without reading them, and hands the untouched socket to the layer that
serves it best. Whatever a layer gets that is not for it is still answered there, only slower.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

BACKLOG = 4096
# One turn of the loop accepts no more than this, so that open connections go on meanwhile.
ACCEPTS_PER_TURN = 64
# A client says the first word of its request at once, or it is none.
LOOK_SECONDS = 5.0
# Without file descriptors left, accepting again at once would burn a core.
REST_SECONDS = 0.1

# Takes over an accepted socket; it is the layer's from then on.
Layer = Callable[[socket.socket], None]


class FrontDoor:
    """Listens, and gives each connection to the layer whose beginning it has; to ``other`` where none fits."""

    def __init__(self, layers: dict[bytes, Layer], other: Layer) -> None:
        self._layers = layers
        self._other = other
        self._longest = max(map(len, layers), default=1)
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._looking: dict[socket.socket, asyncio.TimerHandle] = {}

    def listen(self, host: str, port: int) -> int:
        """
        Listen, sharing the port with other processes, and return the port.

        Raises:
            OSError: the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        listening.setblocking(False)
        self._listening = listening
        self._loop.add_reader(listening.fileno(), self._accept)
        return int(listening.getsockname()[1])

    def close(self) -> None:
        """Accept no more; connections that nobody serves yet are dropped."""
        if self._listening:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        for client in list(self._looking):
            self._drop(client)

    def _accept(self) -> None:
        assert self._listening
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                    return
                continue  # the client is gone already
            self._welcome(client)

    def _rest(self, error: OSError) -> None:
        log.error("cannot accept connections: %s", error)
        assert self._listening
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._listening:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _welcome(self, client: socket.socket) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._looking[client] = self._loop.call_later(LOOK_SECONDS, self._drop, client)
        self._loop.add_reader(client.fileno(), self._look, client)

    def _look(self, client: socket.socket) -> None:
        try:
            head = client.recv(self._longest, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            return self._drop(client)
        if not head:
            return self._drop(client)
        if any(len(head) < len(start) and start.startswith(head) for start in self._layers):
            # Undecided. Asking to be woken for more than there is keeps the loop from spinning.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(head) + 1)
            return
        self._forget(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        layer = next((layer for start, layer in self._layers.items() if head.startswith(start)), self._other)
        layer(client)

    def _forget(self, client: socket.socket) -> None:
        self._loop.remove_reader(client.fileno())
        self._looking.pop(client).cancel()

    def _drop(self, client: socket.socket) -> None:
        self._forget(client)
        client.close()
