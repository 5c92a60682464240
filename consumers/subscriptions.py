"""
How connections come to hear channels, and stop: on connect, by command, and by what happens to memberships.

All follow one pattern: read rights, position and what was missed from the database; then, without an await, take what
the relay has heard since, reply, attach. Nothing is delivered twice or left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from models import channels, limits
from models.errors import SessionRevoked
from models.events import Publication
from models.queries import admission
from models.queries import streams as stream_queries
from models.queries.streams import ConnectSnapshot, Position, Recovered

from .connection import Connection, State, Subscription
from .hub import Channel, Hub, to_wire
from .protocol import messages
from .protocol.codec import Codec
from .protocol.codes import Disconnect, ErrorCode, Unsubscribe
from .protocol.messages import Push, Reply, Subscribed, SubscribeResult
from .relay import Relay

log = logging.getLogger(__name__)

# The client's own subscriptions; the server's come on top.
MAX_CHANNELS = 128
MAX_CHANNEL_BYTES = 255
# The flag of a request that wants an error instead of an unrecovered success.
REJECT_UNRECOVERED = 2
# How often a snapshot is read again because the channel went on faster than we read.
ATTEMPTS = 3

Run = Callable[..., Awaitable[Any]]


class Snapshot(NamedTuple):
    """One channel as it was read: None if the user may not hear it."""

    position: Position
    missed: list[Publication] | None


class Place(NamedTuple):
    """Where a connection can be attached right now, and what it has to be given before."""

    channel: Channel
    upto: int
    missed: list[Publication]


class Subscriptions:
    """All that changes which connection of this process hears what."""

    def __init__(self, hub: Hub, run: Run) -> None:
        self._hub = hub
        self._run = run
        self.relay: Relay
        self._tasks: set[asyncio.Task[None]] = set()
        hub.effects.update(
            {
                "member.removed": self._on_member_removed,
                "conversation.deleted": self._on_conversation_deleted,
                "conversation.joined": self._on_joined,
                "session.revoked": self._on_session_revoked,
                "user.deleted": self._on_user_deleted,
            }
        )

    # --- on connect

    async def begin(
        self, user: UUID, session: UUID, requested: Mapping[str, messages.SubscribeRequest]
    ) -> ConnectSnapshot:
        """
        Read what a connection begins with.

        Raises:
            SessionRevoked: its session has been ended.
        """
        positions = {name: (r.offset, r.epoch) for name, r in requested.items() if r.recover}
        snapshot: ConnectSnapshot = await self._run(_begin, user, session, positions)
        return snapshot

    def attach_all(
        self, connection: Connection, snapshot: ConnectSnapshot
    ) -> tuple[dict[str, SubscribeResult], list[Place]] | None:
        """
        Find what the connect reply says of each channel, and where to attach once it is written.

        None if a channel has gone on beyond what is at hand: the snapshot has to be read again.
        """
        positions = {snapshot.personal: snapshot.personal_position}
        positions |= {m.channel: m.position for m in snapshot.memberships}
        results: dict[str, SubscribeResult] = {}
        places: list[Place] = []
        for name, position in positions.items():
            place = self._place(name, position)
            if place is None:
                self.release(places)
                return None
            if any(self._ends(p, connection) for p in place.missed):
                self._hub.release(place.channel)
                continue
            recovered = snapshot.recovered.get(name)
            results[name] = _result(connection.codec, place, recovered)
            places.append(place)
        return results, places

    def settle_all(self, connection: Connection, snapshot: ConnectSnapshot, places: list[Place]) -> None:
        """Attach a connection whose connect reply is written."""
        assert connection.user is not None
        self._hub.arrive(connection.user, connection)
        for place in places:
            connection.channels[place.channel.name] = Subscription(is_server_side=True, is_settled=True)
            self._hub.attach(place.channel, connection, place.upto)
        for other in snapshot.others:
            self._hub.know(other.channel, other.position.epoch, other.position.top, connection)
        connection.known = tuple(other.channel for other in snapshot.others)

    def release(self, places: list[Place]) -> None:
        """Let go of places that nobody takes."""
        for place in places:
            self._hub.release(place.channel)

    # --- by command

    def subscribe(self, connection: Connection, id: int, request: messages.SubscribeRequest) -> None:
        """Subscribe a connection at its own wish."""
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if error := self._refusal(connection, request):
            return connection.refuse(id, error)
        connection.channels[name] = Subscription(is_server_side=False, is_settled=False)
        connection.begin()
        self._spawn(self._subscribe(connection, id, request))

    def unsubscribe(self, connection: Connection, id: int, request: messages.UnsubscribeRequest) -> None:
        """End a subscription; this never fails."""
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        subscription = connection.channels.get(name)
        if subscription and not subscription.is_settled:
            subscription.unsubscribe_ids.append(id)
            return
        # What the server put on a connection is not the client's to end.
        if subscription and not subscription.is_server_side:
            self._drop(connection, name)
        connection.reply(Reply(id=id, unsubscribe=messages.Empty()))

    def _refusal(self, connection: Connection, request: messages.SubscribeRequest) -> ErrorCode | None:
        """The checks that need no database, in the order of the protocol's specification (section 4.4)."""
        name = request.channel
        if len(name) > MAX_CHANNEL_BYTES or not name.isascii():
            return ErrorCode.BAD_REQUEST
        if not is_known_namespace(name):
            return ErrorCode.UNKNOWN_CHANNEL
        if name in connection.channels:
            return ErrorCode.ALREADY_SUBSCRIBED
        if sum(1 for s in connection.channels.values() if not s.is_server_side) >= MAX_CHANNELS:
            return ErrorCode.LIMIT_EXCEEDED
        if request.type or request.tf:
            return ErrorCode.BAD_REQUEST
        # Our channels know no tokens of their own, so none can be valid.
        return ErrorCode.PERMISSION_DENIED if request.token else None

    async def _subscribe(self, connection: Connection, id: int, request: messages.SubscribeRequest) -> None:
        name = request.channel
        outcome: ErrorCode | None = ErrorCode.INTERNAL
        try:
            outcome = await self._try_to_subscribe(connection, id, request)
        except Exception:
            log.exception("subscribing failed")
        finally:
            connection.finish()
        subscription = connection.channels.get(name)
        if outcome is not None:
            connection.channels.pop(name, None)
            connection.refuse(id, outcome)
        if subscription:
            subscription.is_settled = True
            for late in subscription.unsubscribe_ids:
                self.unsubscribe(connection, late, messages.UnsubscribeRequest(name))

    async def _try_to_subscribe(
        self, connection: Connection, id: int, request: messages.SubscribeRequest
    ) -> ErrorCode | None:
        assert connection.user is not None
        name = request.channel
        since = (request.offset, request.epoch) if request.recover else None
        for _ in range(ATTEMPTS):
            snapshot: Snapshot | None = await self._run(_read, connection.user, name, since)
            if snapshot is None:
                return ErrorCode.PERMISSION_DENIED
            place = self._place(name, snapshot.position)
            if place is None:
                continue
            recovered = Recovered(snapshot.position, snapshot.missed) if since else None
            outcome: ErrorCode | None = None
            if any(self._ends(p, connection) for p in place.missed):
                outcome = ErrorCode.PERMISSION_DENIED
            elif recovered and recovered.publications is None and request.flag & REJECT_UNRECOVERED:
                outcome = ErrorCode.UNRECOVERABLE_POSITION
            elif connection.state is State.CONNECTED:
                connection.reply(Reply(id=id, subscribe=_result(connection.codec, place, recovered, since)))
                connection.flush()
                self._hub.attach(place.channel, connection, place.upto)
            self._hub.release(place.channel)
            return outcome
        return ErrorCode.INTERNAL

    def _place(self, name: str, position: Position) -> Place | None:
        """Open a channel that was read up to ``position``; None if it has gone on beyond what is at hand."""
        channel = self.relay.open(name, position.epoch, position.top)
        if channel.epoch != position.epoch:
            return None
        missed = self.relay.since(channel, position.top)
        if missed is None:
            return None
        return Place(channel, max(channel.top, position.top), missed)

    # --- by the server

    def promote(self, publication: Publication) -> None:
        """Subscribe those who only knew of a channel, because something happens in it. The publication follows."""
        name = publication.channel
        known = self._hub.known.pop(name, None)
        if known is None:
            return
        listeners = [c for c in known.listeners if not self._ends(publication, c)]
        if not listeners:
            return
        channel = self._hub.open(name, publication.epoch, publication.offset - 1)
        for connection in listeners:
            self._announce(connection, channel)

    def _announce(self, connection: Any, channel: Channel) -> None:
        if connection.state is not State.CONNECTED or channel.name in connection.channels:
            return
        self._make_room(connection)
        connection.channels[channel.name] = Subscription(is_server_side=True, is_settled=True)
        subscribed = Subscribed(recoverable=True, positioned=True, epoch=channel.epoch, offset=channel.top)
        connection.push(Push(channel=channel.name, subscribe=subscribed))
        self._hub.attach(channel, connection, channel.top)

    def _make_room(self, connection: Connection) -> None:
        """Take the least recently active conversation from a connection that has as many as it may."""
        held = [name for name, s in connection.channels.items() if s.is_server_side and name.startswith(channels.CHAT)]
        if len(held) < limits.MAX_SUBSCRIBED_CONVERSATIONS:
            return
        oldest = min((self._hub.channels[name] for name in held), key=_used_at)
        self._hub.know(oldest.name, oldest.epoch, oldest.top, connection)
        connection.known += (oldest.name,)
        self._drop(connection, oldest.name)
        connection.unsubscribed(oldest.name, Unsubscribe.SERVER)

    def lost(self, channel: Channel) -> None:
        """A gap that the database cannot fill, or another epoch: everyone has to start afresh."""
        for connection in self._hub.end(channel.name):
            self._invalidate(connection, channel.name)

    def _invalidate(self, connection: Any, name: str) -> None:
        subscription = connection.channels.pop(name, None)
        if subscription is None:
            return
        if subscription.is_server_side:
            # Clients have no way to subscribe again to what the server gave them.
            connection.disconnect(Disconnect.INSUFFICIENT_STATE)
        else:
            connection.unsubscribed(name, Unsubscribe.INSUFFICIENT_STATE)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has closed."""
        for name in connection.channels:
            self._hub.detach(name, connection)
        for name in connection.known:
            self._hub.forget(name, connection)
        connection.channels = {}
        if connection.user is not None:
            self._hub.depart(connection.user, connection)

    def _drop(self, connection: Connection, name: str) -> None:
        connection.channels.pop(name, None)
        self._hub.detach(name, connection)

    # --- what every process has to act upon

    def _ends(self, publication: Publication, connection: Any) -> bool:
        """Whether a publication ends this connection's right to hear its channel."""
        if publication.kind == "member.removed":
            return publication.subject == connection.user and not publication.channel.startswith(channels.FEED)
        return publication.kind == "conversation.deleted"

    def _on_member_removed(self, publication: Publication) -> None:
        name = publication.channel
        if publication.subject is None or name.startswith(channels.FEED):
            return
        for connection in self._connections(publication.subject):
            self._hub.forget(name, connection)
            if name in connection.channels:
                self._drop(connection, name)
                connection.unsubscribed(name, Unsubscribe.SERVER)

    def _on_conversation_deleted(self, publication: Publication) -> None:
        for connection in self._hub.end(publication.channel):
            if isinstance(connection, Connection) and publication.channel in connection.channels:
                del connection.channels[publication.channel]
                connection.unsubscribed(publication.channel, Unsubscribe.SERVER)

    def _on_joined(self, publication: Publication) -> None:
        name = msgspec.json.decode(publication.data)["channel"]
        user = channels.personal_user_id(publication.channel)
        # Feeds are subscribed by clients themselves.
        if user and name.startswith(channels.CHAT):
            self._spawn(self._join(user, name))

    async def _join(self, user: UUID, name: str) -> None:
        for _ in range(ATTEMPTS):
            snapshot: Snapshot | None = await self._run(_read, user, name, None)
            if snapshot is None:
                return
            place = self._place(name, snapshot.position)
            if place is None:
                continue
            for connection in self._connections(user):
                if not any(self._ends(p, connection) for p in place.missed):
                    self._announce(connection, place.channel)
            self._hub.release(place.channel)
            return

    def _on_session_revoked(self, publication: Publication) -> None:
        user = channels.personal_user_id(publication.channel)
        for connection in self._connections(user):
            if connection.session == publication.ref:
                connection.disconnect(Disconnect.INVALID_TOKEN)

    def _on_user_deleted(self, publication: Publication) -> None:
        for connection in self._connections(channels.personal_user_id(publication.channel)):
            connection.disconnect(Disconnect.FORCE_DISCONNECT)

    def _connections(self, user: UUID | None) -> list[Connection]:
        there = self._hub.users.get(user, ()) if user else ()
        return [connection for connection in there if isinstance(connection, Connection)]

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def is_known_namespace(name: str) -> bool:
    """Whether a channel of this name can exist: so far only conversations, feeds and people have channels."""
    return name.startswith((channels.CHAT, channels.FEED, channels.PERSONAL))


def _result(
    codec: Codec, place: Place, recovered: Recovered | None, since: tuple[int, str] | None = None
) -> SubscribeResult:
    """What a reply says of a channel. Recovered, it has the position that the client had; else the present one."""
    result = SubscribeResult(recoverable=True, positioned=True, epoch=place.channel.epoch, offset=place.upto)
    if recovered is None:
        return result
    result.was_recovering = True
    if recovered.publications is not None:
        publications = [*recovered.publications, *place.missed]
        result.recovered = True
        result.offset = since[0] if since else place.upto - len(publications)
        result.publications = [to_wire(p, codec) for p in publications]
    return result


def _used_at(channel: Channel) -> float:
    return channel.used_at


# --- in a thread


def _begin(user: UUID, session: UUID, positions: dict[str, tuple[int, str]]) -> ConnectSnapshot:
    if not admission.is_session_alive(user_id=user, session_id=session):
        raise SessionRevoked
    return stream_queries.connect_snapshot(user, positions)


def _read(user: UUID, name: str, since: tuple[int, str] | None) -> Snapshot | None:
    floor = admission.floor(user_id=user, channel=name)
    if floor is None:
        return None
    if since is None:
        position = stream_queries.read_positions([name]).get(name)
        return position and Snapshot(position, None)
    found = stream_queries.recover([(name, *since)], floors={name: floor}).get(name)
    return found and Snapshot(found.position, found.publications)
