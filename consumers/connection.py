"""
One client: its state machine. Bytes in, bytes out, no I/O of its own; what a command does is given by its handlers.

Commands that need no waiting are answered in the callback that brought them; replies of one turn share a frame. Waiting
ones are bounded: a connection with too many is not read until it has caught up.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol
from uuid import UUID, uuid4

from .identity import NEVER, Identity
from .info import Info
from .protocol import messages
from .protocol.codec import Codec, Undecodable
from .protocol.codes import Disconnect, ErrorCode, Unsubscribe
from .protocol.json import JSON
from .protocol.messages import Command, Error, Push, Reply
from .rate_limit import Bucket, Verdict
from .terms import Terms

# Commands of one connection that may wait for a commit or a query; further ones stay in the socket.
MAX_IN_FLIGHT = 64
# What a socket layer had read before it stopped, or what came before the connect reply; more than that is a flood.
MAX_BACKLOG_FRAMES = 2_000
MAX_BACKLOG_BYTES = 1 << 20
# A client connects, then sends its first command at once.
CONNECT_SECONDS = 10.0
# How long a new token may take to come after the old one has run out.
EXPIRY_GRACE_SECONDS = 25.0

NOBODY = Identity(user="")


class State(Enum):
    """Where in its life a connection is."""

    NEW = 0
    CONNECTING = 1
    CONNECTED = 2
    # The connect command was answered by an error; the client is expected to leave.
    REFUSED = 3
    CLOSED = 4


class Subscription:
    """A channel that a connection holds, or is about to."""

    __slots__ = ("is_server_side", "is_settled", "terms", "unsubscribe_ids")

    def __init__(self, *, is_server_side: bool, is_settled: bool, terms: Terms) -> None:
        self.is_server_side = is_server_side
        self.is_settled = is_settled
        self.terms = terms
        # Commands that ended it before it was settled; they are answered when it is.
        self.unsubscribe_ids: tuple[int, ...] = ()


class Handlers(Protocol):
    """What commands do. Each answers by itself, now or later."""

    def connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None: ...
    def subscribe(self, connection: Connection, id: int, request: messages.SubscribeRequest) -> None: ...
    def unsubscribe(self, connection: Connection, id: int, request: messages.UnsubscribeRequest) -> None: ...
    def publish(self, connection: Connection, id: int, request: messages.PublishRequest) -> None: ...
    def presence(self, connection: Connection, id: int, request: messages.PresenceRequest) -> None: ...
    def presence_stats(self, connection: Connection, id: int, request: messages.PresenceRequest) -> None: ...
    def history(self, connection: Connection, id: int, request: messages.HistoryRequest) -> None: ...
    def rpc(self, connection: Connection, id: int, request: messages.RPCRequest) -> None: ...
    def refresh(self, connection: Connection, id: int, request: messages.RefreshRequest) -> None: ...
    def sub_refresh(self, connection: Connection, id: int, request: messages.SubRefreshRequest) -> None: ...
    def send(self, connection: Connection, request: messages.SendRequest) -> None: ...
    def expired(self, connection: Connection, channel: str) -> None: ...
    def closed(self, connection: Connection) -> None: ...


class Wire(Protocol):
    """The way out, and the tap of the way in."""

    def write(self, frame: bytes) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Clock(Protocol):
    """The loop's time, and its next turn."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[[], None]) -> Any: ...


class Pace:
    """How often a connection is pinged, how long a pong may take (seconds), and how many commands a second it has."""

    __slots__ = ("commands", "ping", "pong")

    def __init__(self, ping: float, pong: float, commands: float) -> None:
        self.ping = ping
        self.pong = pong
        self.commands = commands


class Connection:
    """
    One websocket's client.

    The socket layer calls ``receive`` and ``lost``, the timers ``on_time``, the hub ``write`` with finished frames.
    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_bucket",
        "_clock",
        "_expires_at",
        "_expiring",
        "_handlers",
        "_held_closes",
        "_in_flight",
        "_is_collecting",
        "_is_paused",
        "_out",
        "_pace",
        "_ping_at",
        "_pong_until",
        "_stale_at",
        "_wire",
        "channels",
        "client",
        "codec",
        "device",
        "emulation",
        "identity",
        "is_known",
        "known",
        "session",
        "state",
        "user",
        "write",
    )

    def __init__(self, wire: Wire, handlers: Handlers, clock: Clock, pace: Pace, codec: Codec = JSON) -> None:
        now = clock.time()
        self.client = ""
        self.codec = codec
        self.state = State.NEW
        self.identity = NOBODY
        # The secret by which its client speaks, where that is not over the same socket.
        self.emulation = ""
        # Whether the hub knows whose it is.
        self.is_known = False
        self.user: UUID | None = None
        self.session: UUID | None = None
        self.device: UUID | None = None
        self.channels: dict[str, Subscription] = {}
        self.known: tuple[str, ...] = ()
        # Bound here, because the hub calls it for every connection of a channel.
        self.write = wire.write
        self._wire = wire
        self._handlers = handlers
        self._clock = clock
        self._pace = pace
        self._bucket = Bucket(pace.commands, now)
        self._out: list[bytes] = []
        self._is_collecting = False
        self._in_flight = 0
        self._is_paused = False
        self._backlog: deque[bytes | list[Command]] | None = None
        self._backlog_bytes = 0
        # While a command may end its own connection: the closes that wait for its reply.
        self._held_closes: list[Disconnect | messages.Disconnected] | None = None
        self._stale_at = now + CONNECT_SECONDS
        self._ping_at = self._pong_until = self._expires_at = NEVER
        # Channels whose subscription ends unless it is renewed, with the time.
        self._expiring: dict[str, float] | None = None

    # --- in

    def receive(self, payload: bytes, is_text: bool = True) -> None:
        """Take one websocket message."""
        if self.state is State.CLOSED:
            return
        if self._is_paused or self._backlog:
            self._keep(payload)
        else:
            self._take(payload)

    def lost(self) -> None:
        """The socket has closed, whoever closed it."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._handlers.closed(self)

    def _take(self, payload: bytes | list[Command]) -> None:
        try:
            commands = payload if isinstance(payload, list) else self.codec.decode(payload)
        except Undecodable:
            return self.disconnect(Disconnect.BAD_REQUEST)
        now = self._clock.time()
        self._is_collecting = True
        for number, command in enumerate(commands):
            if self.state is State.CLOSED:
                break
            # The rest of a frame waits with the others for the connect reply, or for what is in flight.
            if (self._is_paused or self.state is State.CONNECTING) and number:
                self._backlog = self._backlog or deque()
                # They stand before everything that comes later.
                self._backlog.appendleft(commands[number:])
                break
            self._handle(command, now)
        self._is_collecting = False
        self.flush()

    def _keep(self, payload: bytes) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(payload)
        self._backlog_bytes += len(payload)
        if len(self._backlog) > MAX_BACKLOG_FRAMES or self._backlog_bytes > MAX_BACKLOG_BYTES:
            self.disconnect(Disconnect.TOO_MANY_REQUESTS)

    def _handle(self, command: Command, now: float) -> None:
        id = command.id
        if id <= 0:
            return self._handle_without_id(command)
        if self.state is not State.CONNECTED:
            return self._begin_to_connect(command)
        verdict = self._bucket.take(now)
        if verdict is not Verdict.ALLOWED:
            return self._refuse_pace(id, verdict)
        handlers = self._handlers
        if command.rpc is not None:
            handlers.rpc(self, id, command.rpc)
        elif command.publish is not None:
            handlers.publish(self, id, command.publish)
        elif command.subscribe is not None:
            handlers.subscribe(self, id, command.subscribe)
        elif command.unsubscribe is not None:
            handlers.unsubscribe(self, id, command.unsubscribe)
        elif command.history is not None:
            handlers.history(self, id, command.history)
        elif command.refresh is not None:
            handlers.refresh(self, id, command.refresh)
        elif command.sub_refresh is not None:
            handlers.sub_refresh(self, id, command.sub_refresh)
        elif command.presence is not None:
            handlers.presence(self, id, command.presence)
        elif command.presence_stats is not None:
            handlers.presence_stats(self, id, command.presence_stats)
        elif command.send is not None:
            handlers.send(self, command.send)
        else:
            # A second connect, a ping command, or nothing that we know.
            self.disconnect(Disconnect.BAD_REQUEST)

    def _handle_without_id(self, command: Command) -> None:
        if command == messages.PONG:
            self._pong_until = NEVER
        elif command.send is None or self.state is not State.CONNECTED:
            self.disconnect(Disconnect.BAD_REQUEST)
        else:
            self._handlers.send(self, command.send)

    def _begin_to_connect(self, command: Command) -> None:
        if command.connect is None or self.state is not State.NEW:
            return self.disconnect(Disconnect.BAD_REQUEST)
        self.state = State.CONNECTING
        self.client = str(uuid4())
        self._pause()
        self._handlers.connect(self, command.id, command.connect)

    def _refuse_pace(self, id: int, verdict: Verdict) -> None:
        if verdict is Verdict.FLOOD:
            self.disconnect(Disconnect.TOO_MANY_REQUESTS)
        else:
            self.refuse(id, ErrorCode.TOO_MANY_REQUESTS)

    # --- waiting

    def begin(self) -> None:
        """A command waits; its handler calls ``finish`` when it is answered."""
        self._in_flight += 1
        if self._in_flight >= MAX_IN_FLIGHT:
            self._pause()

    def finish(self) -> None:
        self._in_flight -= 1
        if self._is_paused and self.state is State.CONNECTED and self._in_flight <= MAX_IN_FLIGHT // 2:
            self._clock.call_soon(self._catch_up)

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._wire.pause()

    def _catch_up(self) -> None:
        # All that finish in one turn ask for this; the first of them may have filled the place again.
        if self.state is State.CLOSED or not self._is_paused or self._in_flight > MAX_IN_FLIGHT // 2:
            return
        self._is_paused = False
        while self._backlog and not self._is_paused and self.state is State.CONNECTED:
            payload = self._backlog.popleft()
            if not isinstance(payload, list):
                self._backlog_bytes -= len(payload)
            self._take(payload)
        if not self._is_paused and self.state is State.CONNECTED:
            self._backlog = None
            self._wire.resume()

    # --- out

    def reply(self, reply: Reply) -> None:
        """Answer a command; what is answered in one turn shares a frame."""
        self.answer(self.codec.encode(reply))

    def answer(self, encoded: bytes) -> None:
        """The same with a reply that is encoded already."""
        self._out.append(encoded)
        if not self._is_collecting and len(self._out) == 1:
            self._clock.call_soon(self.flush)

    def refuse(self, id: int, code: ErrorCode) -> None:
        """Answer a command with an error of the protocol."""
        self.reply(Reply(id=id, error=Error(code.value, code.reason, code.is_temporary)))

    def give(self, id: int, outcome: Error | messages.Disconnected) -> None:
        """Answer a command that did not succeed."""
        if isinstance(outcome, Error):
            self.reply(Reply(id=id, error=outcome))
        else:
            self.disconnect(outcome)

    def push(self, push: Push) -> None:
        """Write a push at once, after the replies that wait."""
        self._out.append(self.codec.encode(Reply(push=push)))
        self.flush()

    def flush(self) -> None:
        """Write the replies that wait."""
        if self._out and not self._is_collecting:
            out, self._out = self._out, []
            if self.state is not State.CLOSED:
                self.write(self.codec.frame(out))

    def unsubscribed(self, channel: str, code: Unsubscribe | messages.Unsubscribed) -> None:
        """Tell the client that the server ended a subscription."""
        told = messages.Unsubscribed(code.value, code.reason) if isinstance(code, Unsubscribe) else code
        self.push(Push(channel=channel, unsubscribe=told))

    def disconnect(self, code: Disconnect | messages.Disconnected) -> None:
        """Close the connection, after what was answered before."""
        if self.state is State.CLOSED:
            return
        if self._held_closes is not None:
            self._held_closes.append(code)
            return
        self._is_collecting = False
        self.flush()
        self.state = State.CLOSED
        number = code.value if isinstance(code, Disconnect) else code.code
        self._wire.close(number, code.reason)
        self._handlers.closed(self)

    def hold_close(self) -> None:
        """Let a command that ends its own connection be answered first; ``release_close`` follows the reply."""
        if self._held_closes is None:
            self._held_closes = []

    def release_close(self) -> None:
        closes, self._held_closes = self._held_closes, None
        if closes:
            self.disconnect(closes[0])

    # --- time

    def connected(self, identity: Identity, expires_in: float) -> None:
        """The connect command has succeeded; what came early is taken once its reply is written."""
        now = self._clock.time()
        self.identity = identity
        self.user, self.session, self.device = identity.person, identity.session, identity.device
        self.state = State.CONNECTED
        self._stale_at = NEVER
        # Spread over half an interval, so that a restart does not make everyone ping at once.
        self._ping_at = now + self._pace.ping * random.uniform(0.5, 1)  # noqa: S311
        self.expire_in(expires_in)
        self._clock.call_soon(self._catch_up)

    def info(self, channel_info: bytes) -> Info:
        """What others may know of this client in a channel."""
        return Info(self.identity.user, self.client, self.identity.info, channel_info)

    def refuse_connect(self, id: int, outcome: Error | messages.Disconnected) -> None:
        """Answer the connect command by an error or a close; whatever the client says after that is too much."""
        self.state = State.REFUSED
        self.give(id, outcome)
        if self.state is State.CLOSED:
            return
        self._is_paused = False
        self._wire.resume()

    def expire_in(self, seconds: float) -> None:
        """The token is good for so long."""
        self._expires_at = self._clock.time() + seconds + EXPIRY_GRACE_SECONDS

    def renewed(self, seconds: float | None, is_expired: bool) -> None:
        """The app's backend says how long it may go on: ``None`` is for ever, and expired is over now."""
        if is_expired:
            self.disconnect(Disconnect.EXPIRED)
        elif seconds is None:
            self._expires_at = NEVER
        else:
            self.expire_in(seconds)

    def expire_subscription(self, channel: str, seconds: float) -> None:
        """A subscription ends in so long, unless that is said again; infinity is never."""
        self._expiring = self._expiring or {}
        self._expiring[channel] = self._clock.time() + seconds

    def _end_subscriptions(self, now: float) -> float:
        """End what has not been renewed; return when the next one is due."""
        expiring = self._expiring or {}
        for channel in [channel for channel, at in expiring.items() if at <= now]:
            del expiring[channel]
            self._handlers.expired(self, channel)
        # A subscription may be made or renewed at any time, for less than a ping's interval.
        return min(min(expiring.values(), default=NEVER), now + 5)

    def on_time(self, now: float) -> float | None:
        """Do what is due; return when to look again, or None when there is nothing left to do."""
        if self.state is State.CLOSED:
            return None
        if now >= self._stale_at:
            self.disconnect(Disconnect.STALE)
        elif now >= self._pong_until:
            self.disconnect(Disconnect.NO_PONG)
        elif now >= self._expires_at:
            self.disconnect(Disconnect.EXPIRED)
        elif now >= self._ping_at:
            self._ping_at += self._pace.ping
            self._pong_until = min(self._pong_until, now + self._pace.pong)
            self.write(self.codec.ping)
        due = min(self._stale_at, self._pong_until, self._expires_at, self._ping_at)
        if self.state is not State.CONNECTED:
            # It may connect at any moment, and its first ping is due half an interval later.
            due = min(due, now + self._pace.ping / 2)
        return due if self._expiring is None else min(due, self._end_subscriptions(now))
