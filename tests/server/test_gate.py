"""What is refused before a consumer sees it, on every server."""

from __future__ import annotations

from typing import Any

import pytest
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.urls import path

from server.gate import Gate


async def consumer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


GATE = Gate(URLRouter([path("connection/websocket", consumer)]), ["https://app.example.com"])


async def is_let_in(target: str, origin: str | None) -> bool:
    headers = [(b"host", b"chat.example.com")] + ([(b"origin", origin.encode())] if origin else [])
    communicator = WebsocketCommunicator(GATE, target, headers=headers)
    is_connected, _ = await communicator.connect()
    await communicator.disconnect()
    return is_connected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, True),
        ("https://chat.example.com", True),
        ("https://app.example.com", True),
        ("https://evil.example", False),
    ],
)
async def test_only_pages_of_allowed_origins_and_apps_get_in(origin: str | None, expected: bool) -> None:
    assert await is_let_in("/connection/websocket", origin) is expected


async def test_unknown_paths_are_refused() -> None:
    assert await is_let_in("/connection/other", None) is False
