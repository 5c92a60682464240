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
# A client says the first words of its request at once, or it is none.
LOOK_SECONDS = 5.0
# Without file descriptors left, accepting again at once would burn a core.
REST_SECONDS = 0.1
# One line per trouble, not ten a second.
COMPLAIN_SECONDS = 10.0
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class CannotListen(Exception):
    """The address is taken, not ours, or not allowed."""


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
        self._complained_at = -COMPLAIN_SECONDS

    def listen(self, host: str, port: int) -> int:
        """
        Listen, sharing the port with other processes, and return the port.

        Raises:
            CannotListen: the address cannot be had.
        """
        try:
            self._listening = _listening_socket(host, port)
        except OSError as error:
            raise CannotListen(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
        self._loop.add_reader(self._listening.fileno(), self._accept)
        return int(self._listening.getsockname()[1])

    def stop_listening(self) -> None:
        """Accept no more. Who is in already is served: closing would cut off what waits in the kernel's queue."""
        if self._listening:
            self._loop.remove_reader(self._listening.fileno())
            self._accept(BACKLOG)
            self._listening.close()
            self._listening = None

    def close(self) -> None:
        """Drop the connections that have not said yet what they want."""
        self.stop_listening()
        for client in list(self._looking):
            self._drop(client)

    def _accept(self, most: int = ACCEPTS_PER_TURN) -> None:
        assert self._listening
        for _ in range(most):
            try:
                client, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF:
                    return self._rest(error)
                continue  # the client is gone already
            self._welcome(client)

    def _rest(self, error: OSError) -> None:
        """Stop accepting for a moment; the kernel keeps who comes meanwhile."""
        now = self._loop.time()
        if now - self._complained_at >= COMPLAIN_SECONDS:
            self._complained_at = now
            log.error("cannot accept connections: %s", error)
        if self._listening:
            self._loop.remove_reader(self._listening.fileno())
            self._loop.call_later(REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._listening:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _welcome(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            return client.close()
        self._looking[client] = self._loop.call_later(LOOK_SECONDS, self._drop, client)
        # Its first bytes are mostly here already; only if not are they waited for.
        self._look(client)
        if client in self._looking:
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
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) > len(head):
            return self._drop(client)  # woken without more to read: it has hung up
        if any(len(head) < len(start) and start.startswith(head) for start in self._layers):
            # Undecided. Asking to be woken for more than there is keeps the loop from spinning.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(head) + 1)
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._forget(client)
        next((layer for start, layer in self._layers.items() if head.startswith(start)), self._other)(client)

    def _forget(self, client: socket.socket) -> None:
        self._loop.remove_reader(client.fileno())
        self._looking.pop(client).cancel()

    def _drop(self, client: socket.socket) -> None:
        self._forget(client)
        client.close()


def _listening_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, _, _, address = found[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening
