"""
``python -m bench.stand_in PORT DELAY_MS``: FCM and the OAuth endpoint before it, with as little as a benchmark needs.

It believes every assertion, takes every message, answers after a while, and tells under ``/posts`` what came when. The
stand-in of the tests checks more, and would be what is measured: it has a thread for each connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from typing import Any, NamedTuple

import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROJECT = "roost-bench"


class Post(NamedTuple):
    """One message that reached the provider, and when."""

    at: float
    message: str
    push_id: str


class _Connection(asyncio.Protocol):
    def __init__(self, posts: list[tuple[float, bytes]], delay_seconds: float) -> None:
        self._posts = posts
        self._delay = delay_seconds
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/messages:send"):
            self._posts.append((time.time(), body))
            answer = _json({"name": f"projects/{PROJECT}/messages/1"})
            asyncio.get_running_loop().call_later(self._delay, self._write, answer)
        elif path == b"/token":
            self._write(_json({"access_token": "bench", "expires_in": 3600, "token_type": "Bearer"}))
        elif path == b"/count":
            self._write(_json(len(self._posts)))
        elif path == b"/posts":
            data = [(at, json.loads(body)["message"]["data"]) for at, body in self._posts]
            self._write(_json([Post(at, told["message"], told["push_id"]) for at, told in data]))
        else:
            self._posts.clear()
            self._write(_json({}))

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


class StandIn:
    """The other side of it: what a benchmark asks the process at this port."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    @property
    def credentials(self) -> str:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": f"bench@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        return json.dumps(account)

    def count(self) -> int:
        """How many messages have come since ``forget``."""
        return int(self._get("count"))

    def posts(self) -> list[Post]:
        return [Post(*post) for post in self._get("posts")]

    def forget(self) -> None:
        self._get("forget")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            return json.load(answer)


def _json(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def _serve(port: int, delay_seconds: float) -> None:
    posts: list[tuple[float, bytes]] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(posts, delay_seconds), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
