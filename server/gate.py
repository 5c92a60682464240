"""What refuses a websocket before any consumer sees it: a page of a foreign origin, a path that nobody serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .peers import Origins


class Gate:
    """An ASGI application around the websocket routes, the same on every server."""

    def __init__(self, routes: Any, allowed_origins: Iterable[str]) -> None:
        self._routes = routes
        self._origins = Origins(allowed_origins)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not self._origins.allow(_header(scope, b"origin"), _header(scope, b"host") or ""):
            return await _refuse(receive, send)
        if not any(route.pattern.match(scope["path"].lstrip("/")) for route in self._routes.routes):
            return await _refuse(receive, send)
        await self._routes(scope, receive, send)


def _header(scope: dict[str, Any], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def _refuse(receive: Any, send: Any) -> None:
    await receive()
    # Before the handshake is accepted this is a 403.
    await send({"type": "websocket.close", "code": 1008})
