"""A web process with an echo application instead of ours, without any database: ``python -m tests.server.echo PORT``.

It is the real process: front door, picows lane, Daphne, drain. Settings come from the environment; the port that it
listens on is printed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

from consumers.lane import EXTENSION
from consumers.protocol.framing import binary_frame, text_frame
from server.env import Env
from server.web import Web

# 64 KB in one frame.
CHUNK = text_frame(b"x" * 65536)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer HTTP with what is known of the client; echo websockets as their query string says."""
    if scope["type"] == "http":
        return await _http(scope, receive, send)
    query = scope["query_string"].decode()
    lane = scope["extensions"][EXTENSION] if query != "asgi" and EXTENSION in scope.get("extensions", {}) else None
    await receive()
    if query == "refuse":
        return await send({"type": "websocket.close", "code": 3500, "reason": "invalid token"})
    if query == "crash":
        raise RuntimeError("as asked")
    if lane is None:
        await _plain(scope, receive, send)
    else:
        await _attached(lane, query, scope, receive, send)


async def _plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 3500, "reason": "invalid token"})
        if event.get("text") == "scope":
            event = {"text": _told(scope).decode()}
        await send({**event, "type": "websocket.send"})
    print(f"disconnect {event['code']}", flush=True)


async def _attached(lane: Any, query: str, scope: dict[str, Any], receive: Any, send: Any) -> None:
    def on_message(payload: bytes, is_text: bool) -> None:
        match payload:
            case b"close":
                lane.close(3500, "invalid token")
            case b"crash":
                raise RuntimeError("as asked")
            case b"pause":
                lane.pause()
                asyncio.get_running_loop().call_later(1, lane.resume)
            case b"scope":
                lane.write(text_frame(_told(scope)))
            case b"pid":
                lane.write(text_frame(str(os.getpid()).encode()))
            case b"later":
                print("later begins", flush=True)
                asyncio.get_running_loop().call_later(0.2, lane.write, text_frame(payload))
            case b"pour":
                pour()
            case b"some":
                for number in range(8):
                    lane.write(text_frame(b"%d" % number * 65536))
                print("some written", flush=True)
            case _:
                lane.write((text_frame if is_text else binary_frame)(payload))

    def pour() -> None:
        # A copy each time, as answers are; what is broadcast would be shared.
        if not is_over:
            lane.write(bytes(bytearray(CHUNK)))
            asyncio.get_running_loop().call_soon(pour)

    is_over = False
    lane.attach(on_message)
    if query == "late":
        await asyncio.sleep(0.2)
    await send({"type": "websocket.accept"})
    event = await receive()
    is_over = True
    assert event["type"] == "websocket.disconnect", event
    print(f"disconnect {event['code']}", flush=True)


async def _http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    event = await receive()
    if scope["path"] == "/slow":
        print("slow begins", flush=True)
        await asyncio.sleep(1)
    body = _told(scope) + event["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _told(scope: dict[str, Any]) -> bytes:
    return f"{scope['scheme']} {scope['client'][0]} {scope.get('subprotocols', '')}".encode()


class NoEngine:
    """Says when it is started and stopped."""

    async def start(self) -> None:
        print("engine started", flush=True)

    async def stop(self, seconds: float) -> None:
        print("engine stopped", flush=True)

    def end_streams(self) -> None:
        """It has none."""


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    web = Web(application, NoEngine(), Env(_env_file=None))
    web.serve("127.0.0.1", int(sys.argv[1]), lambda port: print(f"listening on {port}", flush=True))


if __name__ == "__main__":
    main()
