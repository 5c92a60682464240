"""Request bodies have a limit, whoever would read them: longer ones are answered with 413 before they fill a disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

Scope = dict[str, Any]
Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PROBLEM = {"type": "about:blank", "title": "The body is too large.", "status": 413, "code": "body_too_large"}


class _TooLarge(Exception):
    pass


class BodyLimit:
    """An ASGI application around another, for HTTP only."""

    def __init__(self, application: Application, most: int) -> None:
        self._application = application
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _declared(scope) > self._most:
            return await self._refuse(send)
        try:
            await self._application(scope, self._counted(receive), send)
        except _TooLarge:
            await self._refuse(send)

    def _counted(self, receive: Receive) -> Receive:
        """A chunked body does not say beforehand how long it is."""
        left = self._most

        async def counting() -> Event:
            nonlocal left
            event = await receive()
            left -= len(event.get("body", b""))
            if left < 0:
                raise _TooLarge
            return event

        return counting

    async def _refuse(self, send: Send) -> None:
        body = msgspec.json.encode({**_PROBLEM, "detail": f"At most {self._most} bytes are taken."})
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
