"""
The protocol's messages as structs, one for each in the order of the specification; the encodings share them.

Requests ignore members that they do not know. Results omit what has its default; ``always`` members have none.
"""

from __future__ import annotations

from typing import Any

import msgspec

Raw = msgspec.Raw
NOTHING = Raw(b"")


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """The base of all."""


# --- requests


class SubscribeRequest(Message):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    data: Raw = NOTHING
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: Raw = NOTHING
    flag: int = 0
    type: int = 0


class ConnectRequest(Message):
    token: str = ""
    data: Raw = NOTHING
    subs: dict[str, SubscribeRequest] = msgspec.field(default_factory=dict)
    name: str = ""
    version: str = ""


class UnsubscribeRequest(Message):
    channel: str = ""


class PublishRequest(Message):
    channel: str = ""
    data: Raw = NOTHING


class PresenceRequest(Message):
    channel: str = ""


class StreamPosition(Message):
    offset: int = 0
    epoch: str = ""


class HistoryRequest(Message):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class RPCRequest(Message):
    data: Raw = NOTHING
    method: str = ""


class SendRequest(Message):
    data: Raw = NOTHING


class RefreshRequest(Message):
    token: str = ""


class SubRefreshRequest(Message):
    channel: str = ""
    token: str = ""


class Command(Message):
    """One command; exactly one member is set, or none in a pong."""

    id: int = 0
    rpc: RPCRequest | None = None
    publish: PublishRequest | None = None
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceRequest | None = None
    history: HistoryRequest | None = None
    send: SendRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


# --- results


class ClientInfo(Message):
    user: str
    client: str
    conn_info: Raw = NOTHING
    chan_info: Raw = NOTHING


class Publication(Message):
    data: Raw
    info: Raw | None = None
    offset: int = 0
    tags: dict[str, str] | None = None


class SubscribeResult(Message):
    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] | None = None
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw = NOTHING
    was_recovering: bool = False


class ConnectResult(Message):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Any = None
    subs: dict[str, SubscribeResult] | None = None
    ping: int = 0
    pong: bool = False


class HistoryResult(Message):
    publications: list[Publication]
    epoch: str
    offset: int


class RefreshResult(Message):
    expires: bool = False
    ttl: int = 0


class Empty(Message):
    """A result without members; it is present all the same."""


class Error(Message):
    code: int
    message: str
    temporary: bool = False


class Unsubscribed(Message):
    code: int
    reason: str


class Subscribed(Message):
    """A subscription that the server made during the life of the connection."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False


class Push(Message):
    channel: str = ""
    pub: Publication | None = None
    unsubscribe: Unsubscribed | None = None
    subscribe: Subscribed | None = None


class Reply(Message):
    """The answer to the command with this id, or a push, or (with nothing set) a ping."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    history: HistoryResult | None = None
    rpc: Raw | None = None
    refresh: RefreshResult | None = None


PONG = Command()

_encode = msgspec.json.Encoder().encode


def encode_command(command: Command) -> bytes:
    """Write a command as JSON: how one that has to wait is kept."""
    return _encode(command)
