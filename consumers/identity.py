"""Who a connection speaks for, and what its tokens grant. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

NEVER = float("inf")


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """
    A right to one channel, given by a token or by the app's backend.

    ``info`` is shown to others, ``data`` to the client; ``override`` switches options of the namespace for this
    subscription. ``expires_at`` in Unix seconds.
    """

    info: bytes = b""
    data: bytes = b""
    expires_at: float = NEVER
    override: Mapping[str, bool] = {}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who somebody is. ``user`` is the name that the protocol shows, empty for anonymous; ``person`` the chat's user.

    ``external_id`` is set for people of the app's own backend whose ``person`` is still to be found or made.
    """

    user: str
    person: UUID | None = None
    session: UUID | None = None
    device: UUID | None = None
    expires_at: float = NEVER
    info: bytes = b""
    meta: bytes = b""
    channels: Mapping[str, Grant] = {}
    external_id: str | None = None
