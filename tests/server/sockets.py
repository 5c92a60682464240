"""An echo process (``echo.py``), and a client that says exactly the bytes it is told to."""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import signal
import socket
import struct
import sys
import termios
import time
from types import TracebackType
from typing import Self

import psutil

from server.children import Child, Ending
from tests import servers

PATH = "/connection/websocket"
WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.02
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
MASK = b"\x01\x02\x03\x04"


class EchoProcess:
    """A running web process with the echo application; keyword arguments are settings."""

    def __init__(self, *, port: int = 0, **settings: object) -> None:
        session = servers.session()
        number = next(session.numbers)
        self._log = session.folder / f"echo-{number}.log"
        environment = {**os.environ, **{f"ROOST_{name.upper()}": str(value) for name, value in settings.items()}}
        command = [sys.executable, "-W", "error", "-m", "tests.server.echo", str(port)]
        self._child = Child(
            session.folder, f"echo-{number}", command, ending=Ending(turn=1), env=environment, log=self._log
        )
        self.port = 0

    def __enter__(self) -> Self:
        self._child.start()
        self.port = int(self.wait_for(r"^listening on (\d+)$").group(1))
        self._process = psutil.Process(self._child.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        return self._child.is_alive

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def wait_for(self, pattern: str, seconds: float = WAIT_SECONDS) -> re.Match[str]:
        """Wait until it has printed a line like this."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.log, re.MULTILINE)) is None:
            assert self.is_alive or re.search(pattern, self.log, re.MULTILINE), f"it ended:\n{self.log}"
            assert time.monotonic() < deadline, f"no {pattern!r} in {seconds} s:\n{self.log}"
            time.sleep(LOOK_SECONDS)
        return found

    def begin_stop(self) -> None:
        """SIGTERM, without waiting."""
        self._child.signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        return self._child.wait(seconds)

    def stop(self) -> int:
        return self._child.stop()


class Raw:
    """A TCP connection, and the websocket on it once it has shaken hands."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_SECONDS)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, request: str) -> tuple[int, str]:
        """Send a request head; return the status and the head of the answer."""
        self.send(request.encode())
        head = self.read_until(b"\r\n\r\n").decode()
        return int(head.split(" ")[1]), head

    def shake_hands(self, query: str = "", headers: dict[str, str] | None = None) -> Self:
        status, head = self.ask(handshake(query, headers))
        assert status == 101, head
        return self

    def send_frame(self, first: int, payload: bytes = b"") -> None:
        self.send(frame(first, payload))

    def say(self, text: str) -> None:
        self.send_frame(TEXT, text.encode())

    def hear(self) -> tuple[int, bytes]:
        """Return the next frame: its first byte and its payload."""
        first, size = self.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        return first, self.read(size)

    def hear_close(self) -> tuple[int, str]:
        """Skip to the close frame; return its code and reason."""
        while True:
            first, payload = self.hear()
            if first == CLOSE:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def hear_end(self) -> None:
        """Wait until the server has closed the TCP connection."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass

    def wait_taken(self) -> None:
        """Wait until the server's side has taken all that was sent."""
        deadline = time.monotonic() + WAIT_SECONDS
        while struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)))[0]:
            assert time.monotonic() < deadline, "it was not taken"
            time.sleep(LOOK_SECONDS)

    def wait_dropped(self) -> None:
        """Wait until the server has reset the connection, without reading what came before."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            assert time.monotonic() < deadline, "it was not dropped"
            time.sleep(LOOK_SECONDS)

    def read(self, size: int) -> bytes:
        while len(self._received) < size:
            self._read_some()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._read_some()
        return self.read(self._received.index(end) + len(end))

    def _read_some(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError(f"closed after {self._received!r}")
        self._received += data


def flood_until_dropped(clients: list[socket.socket], data: bytes) -> None:
    """Write to all of them what they take, until each is dropped."""
    deadline = time.monotonic() + WAIT_SECONDS
    with selectors.DefaultSelector() as ready:
        for client in clients:
            client.setblocking(False)
            ready.register(client, selectors.EVENT_WRITE, client.send)
        while ready.get_map():
            assert time.monotonic() < deadline, f"{len(ready.get_map())} may still flood"
            for key, _ in ready.select(0.1):
                try:
                    key.data(data)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    ready.unregister(key.fileobj)


def handshake(query: str = "", headers: dict[str, str] | None = None, *, path: str = PATH) -> str:
    """A websocket request; a header that is set to "" is left out."""
    lines = {
        "Host": "chat.example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    target = f"{path}?{query}" if query else path
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"GET {target} HTTP/1.1\r\n{fields}\r\n"


def frame(first: int, payload: bytes = b"") -> bytes:
    """A client's frame, masked."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    repeated = MASK * (size // 4 + 1)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")
    return head + MASK + masked.to_bytes(size, "big")
