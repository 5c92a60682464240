"""
The protocol's messages as structs, one for each in the order of the specification; the encodings share them.

Requests ignore members that they do not know. Results omit what has its default; members without one are always there.
``Raw`` is what goes through as it came: JSON text where the other side speaks JSON, any bytes elsewhere.
"""

from __future__ import annotations

import msgspec

Raw = msgspec.Raw
NOTHING = Raw(b"")


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """The base of all."""


class Empty(Message):
    """A member without members; it is present all the same."""


# --- requests


class FilterNode(Message):
    """A tags filter, or a part of one: see ``filters``."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[FilterNode] = []


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
    tf: FilterNode | None = None
    flag: int = 0
    type: int = 0


class ConnectRequest(Message):
    token: str = ""
    data: Raw = NOTHING
    subs: dict[str, SubscribeRequest] = msgspec.field(default_factory=dict)
    name: str = ""
    version: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict)


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
    ping: Empty | None = None
    send: SendRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class EmulationRequest(Message):
    """Later commands of a client whose way in is not its way out; ``data`` is a frame."""

    node: str = ""
    session: str = ""
    data: Raw = NOTHING


# --- results


class ClientInfo(Message):
    user: str
    client: str
    conn_info: Raw = NOTHING
    chan_info: Raw = NOTHING


class Publication(Message):
    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    delta: bool = False


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
    delta: bool = False


class ConnectResult(Message):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw = NOTHING
    subs: dict[str, SubscribeResult] | None = None
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class PresenceResult(Message):
    presence: dict[str, ClientInfo]


class PresenceStatsResult(Message):
    num_clients: int
    num_users: int


class HistoryResult(Message):
    publications: list[Publication]
    epoch: str
    offset: int


class RPCResult(Message):
    data: Raw = NOTHING


class RefreshResult(Message):
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Message):
    expires: bool = False
    ttl: int = 0


class Error(Message):
    code: int
    message: str
    temporary: bool = False


# --- pushes


class Presence(Message):
    """Somebody came or went."""

    info: ClientInfo


class Unsubscribed(Message):
    code: int
    reason: str


class Asynchronous(Message):
    """A message to one connection."""

    data: Raw


class Subscribed(Message):
    """A subscription that the server made during the life of the connection."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw = NOTHING


class Disconnected(Message):
    """What a close frame says, for transports that have none."""

    code: int
    reason: str
    reconnect: bool = False


class Push(Message):
    channel: str = ""
    pub: Publication | None = None
    join: Presence | None = None
    leave: Presence | None = None
    unsubscribe: Unsubscribed | None = None
    message: Asynchronous | None = None
    subscribe: Subscribed | None = None
    disconnect: Disconnected | None = None


class Reply(Message):
    """The answer to the command with this id, or a push, or (with nothing set) a ping."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None


PONG = Command()
