"""Requests over kept-alive connections, and what each costs the server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from .tools import Processes

CONNECTIONS = 32


@dataclass(frozen=True)
class Posted:
    """CPU of the server in µs for each request, and requests per second."""

    cpu_us: float
    rate: float


def post(
    server: Processes,
    port: int,
    path: str,
    headers: dict[str, str],
    body: str,
    *,
    requests: int,
    connections: int = CONNECTIONS,
) -> Posted:
    """Send a request over and over, on all connections at once, and wait for each answer."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{head}\r\n{body}"
    ).encode()
    before, began = server.cpu(), time.perf_counter()
    asyncio.run(_on_all(port, request, connections, requests // connections))
    count = requests // connections * connections
    return Posted((server.cpu() - before) / count * 1e6, count / (time.perf_counter() - began))


async def _on_all(port: int, request: bytes, connections: int, each: int) -> None:
    await asyncio.gather(*(_on_one(port, request, each) for _ in range(connections)))


async def _on_one(port: int, request: bytes, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if " 200 " not in head.split("\r\n")[0]:
            raise RuntimeError(f"the server answered {head!r}")
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(length)
    writer.close()
