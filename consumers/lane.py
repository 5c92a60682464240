"""The ASGI extension ``roost.frames``: what a socket layer offers, and a consumer uses, to bypass ASGI's queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

EXTENSION = "roost.frames"

# The payload of one websocket message, and whether it came as text.
OnMessage = Callable[[bytes, bool], None]


class Lane(Protocol):
    """One websocket, as its socket layer offers it in ``scope["extensions"]["roost.frames"]``."""

    def attach(self, on_message: OnMessage) -> None:
        """
        Have every message handed to ``on_message`` instead of ``websocket.receive``.

        Called before ``websocket.accept``; what came with the handshake is handed over right after it.
        """

    def write(self, frame: bytes) -> None:
        """Write one or more finished frames (``protocol.framing``); nothing once the connection is closing."""

    def close(self, code: int, reason: str) -> None:
        """Close after everything that is pending; the application then gets ``websocket.disconnect``."""

    def pause(self) -> None:
        """Read no more from this connection until ``resume``."""

    def resume(self) -> None:
        """Read on."""
