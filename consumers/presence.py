"""Who is in a channel, on all processes together. ``server.presence`` keeps it in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .info import Info


class Presence(Protocol):
    """Entries by channel and client. Nothing here raises: without Redis, a process knows of its own clients only."""

    async def add(self, channel: str, info: Info) -> None:
        """A client is there from now on."""

    async def remove(self, channel: str, client: str) -> None:
        """A client has gone."""

    def remove_soon(self, channel: str, client: str) -> None:
        """The same where nobody waits for it."""

    async def read(self, channel: str) -> Mapping[str, Info]:
        """Who is there, by client."""
