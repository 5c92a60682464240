"""What one process has all of them do: the backend's word reaches a client wherever it is connected. Plain values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Order(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The base of all."""


class AboutUser(Order, frozen=True, kw_only=True):
    """Something done to all connections of a user, or to one of them."""

    user: str
    client: str = ""
    session: str = ""


class Disconnect(AboutUser, frozen=True, kw_only=True):
    code: int
    reason: str
    whitelist: list[str] = []


class Subscribe(AboutUser, frozen=True, kw_only=True):
    channel: str
    info: bytes = b""
    data: bytes = b""
    override: Mapping[str, bool] = {}
    since: tuple[int, str] | None = None


class Unsubscribe(AboutUser, frozen=True, kw_only=True):
    """From one channel."""

    channel: str
    code: int = 2000
    reason: str = "server unsubscribe"


class Refresh(AboutUser, frozen=True, kw_only=True):
    """``expire_at`` in Unix seconds; 0 is never."""

    is_expired: bool = False
    expire_at: int = 0


class Emulate(Order, frozen=True, kw_only=True):
    """What a client said whose way in is not its way out; ``node`` holds that one."""

    node: str
    session: str
    data: bytes


class Count(Order, frozen=True, kw_only=True):
    """Say what there is."""

    survey: str
    asked_by: str


class Counted(Order, frozen=True, kw_only=True):
    """What one process has: clients by channel, and itself."""

    survey: str
    asked_by: str
    node: str
    channels: dict[str, int]
    clients: int
    users: int
    subscriptions: int
    uptime: int


AnyOrder = Disconnect | Subscribe | Unsubscribe | Refresh | Emulate | Count | Counted

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(AnyOrder)


def decode(order: bytes) -> AnyOrder:
    """Read an order of another process."""
    found: AnyOrder = _decoder.decode(order)
    return found
