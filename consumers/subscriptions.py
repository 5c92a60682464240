"""
How connections come to hear channels, and stop: on connect, by command, and by what happens to memberships.

All follow one pattern: read rights, position and what was missed; then, without an await, take what the relay has heard
since, reply, attach. Nothing is delivered twice or left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from models import channels, limits, tasks
from models.errors import TokenExpired, TokenInvalid, Unavailable
from models.events import Publication
from models.queries.streams import Position, Recovered

from .authentication import Authenticator, WrongToken
from .connection import Connection, State, Subscription
from .extensions import Extensions, Subscribing
from .filters import BadFilter
from .hub import JOIN, LEAVE, Channel, Hub
from .identity import NEVER, Grant, Identity
from .info import Info
from .namespaces import Namespace, Namespaces, is_chat
from .openings import NOWHERE, Beginning, Opening, Openings, Snapshot, read_chat, read_stream
from .outcomes import Refused, log_failure, outcome
from .presence import Presence
from .protocol import messages
from .protocol.codec import Codec, Unsuitable
from .protocol.codes import Disconnect, ErrorCode, Unsubscribe
from .protocol.messages import Push, Raw, Reply, Subscribed, SubscribeRequest, SubscribeResult
from .relay import Relay
from .terms import CHAT, Terms, make_terms
from .views import View, to_wire

log = logging.getLogger(__name__)

# The client's own subscriptions; the server's come on top.
MAX_CHANNELS = 128
MAX_CHANNEL_BYTES = 255
# The flag of a request that wants an error instead of an unrecovered success.
REJECT_UNRECOVERED = 2
# How often a snapshot is read again because the channel went on faster than we read.
ATTEMPTS = 3
# How long after its end a subscription may still be renewed.
EXPIRY_GRACE_SECONDS = 25.0

Run = Callable[..., Awaitable[Any]]


class Place(NamedTuple):
    """Where a connection can be attached right now, and what it has to be given before."""

    channel: Channel
    upto: int
    missed: list[Publication]
    terms: Terms
    view: View | None


class Subscriptions:
    """All that changes which connection of this process hears what."""

    def __init__(
        self,
        hub: Hub,
        run: Run,
        *,
        namespaces: Namespaces,
        authenticator: Authenticator,
        presence: Presence,
        extensions: Extensions,
        is_insecure: bool,
    ) -> None:
        self._hub = hub
        self._run = run
        self._namespaces = namespaces
        self._authenticator = authenticator
        self._presence = presence
        self._extensions = extensions
        self._is_insecure = is_insecure
        self._openings = Openings(run)
        self.relay: Relay
        self._tasks = tasks.Group()
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

    async def begin(self, identity: Identity, request: messages.ConnectRequest) -> Opening:
        """
        Read what a connection begins with.

        Raises:
            SessionRevoked: its session has been ended, or its user may not be here any more.
            Refused: its token grants more channels than a connection may have.
        """
        if len(identity.channels) > MAX_CHANNELS:
            raise Refused(Disconnect.CHANNEL_LIMIT)
        positions = {name: (r.offset, r.epoch) for name, r in request.subs.items() if r.recover and is_chat(name)}
        granted: dict[str, tuple[Terms, SubscribeRequest]] = {}
        for name, grant in identity.channels.items():
            namespace = self._namespaces.find(name)
            # The chat's channels are given by membership and by nothing else.
            if namespace is not None and not is_chat(name):
                asked = request.subs.get(name, SubscribeRequest())
                granted[name] = make_terms(namespace, SubscribeRequest(recoverable=True, positioned=True), grant), asked
        return await self._openings.read(Beginning(identity, positions, granted, bytes(request.data)))

    def attach_all(
        self, connection: Connection, opening: Opening
    ) -> tuple[dict[str, SubscribeResult], list[Place]] | None:
        """
        Find what the connect reply says of each channel, and where to attach once it is written.

        None if a channel has gone on beyond what is at hand: the snapshot has to be read again.

        Raises:
            Unsuitable: something that was missed cannot be told in this encoding.
        """
        results: dict[str, SubscribeResult] = {}
        places: list[Place] = []
        for name, terms, position, recovered in _channels(opening):
            place = self._place(name, position, terms)
            if place is None:
                self.release(places)
                return None
            if any(self._ends(p, opening.identity.person) for p in place.missed):
                self._hub.release(place.channel)
                continue
            results[name] = _result(connection.codec, place, recovered)
            places.append(place)
        return results, places

    def settle_all(self, connection: Connection, opening: Opening, places: list[Place]) -> None:
        """Attach a connection whose connect reply is written."""
        identity = opening.identity
        self._hub.arrive(identity.person, identity.user, connection)
        connection.is_known = True
        for place in places:
            self._settle(connection, place, is_server_side=True)
        if opening.chat is not None:
            for other in opening.chat.others:
                self._hub.know(other.channel, other.position.epoch, other.position.top, connection)
            connection.known = tuple(other.channel for other in opening.chat.others)

    async def appear(self, connection: Connection, channel: str, terms: Terms) -> None:
        """Let others see a client in a channel, before it hears that it is there."""
        if terms.is_present:
            await self._presence.add(channel, connection.info(terms.info))

    def vanish(self, connection: Connection, opening: Opening) -> None:
        """Take back what others see of a connection that is gone before it was there."""
        for name, (terms, _, _) in opening.granted.items():
            if terms.is_present:
                self._presence.remove_soon(name, connection.client)

    def release(self, places: list[Place]) -> None:
        """Let go of places that nobody takes."""
        for place in places:
            self._hub.release(place.channel)

    # --- by command

    def subscribe(self, connection: Connection, id: int, request: SubscribeRequest) -> None:
        """Subscribe a connection at its own wish."""
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if error := self._refusal(connection, request):
            return connection.refuse(id, error)
        subscription = connection.channels[name] = Subscription(is_server_side=False, is_settled=False, terms=CHAT)
        connection.begin()
        self._tasks.spawn(self._subscribe(connection, id, request, subscription))

    def unsubscribe(self, connection: Connection, id: int, request: messages.UnsubscribeRequest) -> None:
        """End a subscription; this never fails."""
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        subscription = connection.channels.get(name)
        if subscription and not subscription.is_settled:
            subscription.unsubscribe_ids = (*subscription.unsubscribe_ids, id)
            return
        # What the server put on a connection is not the client's to end.
        if subscription and not subscription.is_server_side:
            self._drop(connection, name)
            if subscription.terms.is_present:
                # So that whoever asks after the reply does not find it any more.
                connection.begin()
                return self._tasks.spawn(self._unsubscribe(connection, id, name))
        connection.reply(Reply(id=id, unsubscribe=messages.Empty()))

    async def _unsubscribe(self, connection: Connection, id: int, name: str) -> None:
        await self._presence.remove(name, connection.client)
        connection.finish()
        connection.reply(Reply(id=id, unsubscribe=messages.Empty()))

    def _refusal(self, connection: Connection, request: SubscribeRequest) -> ErrorCode | None:
        """The checks that need no database, in the order of the protocol's specification (section 4.4)."""
        name = request.channel
        if len(name) > MAX_CHANNEL_BYTES or not name.isascii():
            return ErrorCode.BAD_REQUEST
        namespace = None if is_chat(name) else self._namespaces.find(name)
        if namespace is None and not is_chat(name):
            return ErrorCode.UNKNOWN_CHANNEL
        if namespace is not None and not namespace.names(name):
            return ErrorCode.BAD_REQUEST
        if name in connection.channels:
            return ErrorCode.ALREADY_SUBSCRIBED
        if sum(1 for s in connection.channels.values() if not s.is_server_side) >= MAX_CHANNELS:
            return ErrorCode.LIMIT_EXCEEDED
        if request.type or (request.tf and namespace is None):
            return ErrorCode.BAD_REQUEST
        # The chat's channels know no tokens of their own, so none can be valid.
        return ErrorCode.PERMISSION_DENIED if request.token and namespace is None else None

    async def _subscribe(
        self, connection: Connection, id: int, request: SubscribeRequest, subscription: Subscription
    ) -> None:
        name = request.channel
        try:
            await self._try_to_subscribe(connection, id, request)
        except Exception as error:
            connection.channels.pop(name, None)
            connection.give(id, outcome(error, "subscribing failed"))
        finally:
            connection.finish()
        for late in subscription.unsubscribe_ids:
            self.unsubscribe(connection, late, messages.UnsubscribeRequest(name))

    async def _try_to_subscribe(self, connection: Connection, id: int, request: SubscribeRequest) -> None:
        """
        Subscribe, and reply.

        Raises:
            Refused, Unsuitable
        """
        name = request.channel
        terms = CHAT if is_chat(name) else await self._admit(connection, request)
        await self.appear(connection, name, terms)
        is_made = False
        try:
            is_made = await self._look_and_reply(connection, id, request, terms)
        finally:
            if terms.is_present and not is_made:
                self._presence.remove_soon(name, connection.client)

    async def _look_and_reply(self, connection: Connection, id: int, request: SubscribeRequest, terms: Terms) -> bool:
        """Whether the subscription is made: not if the connection closed meanwhile."""
        name = request.channel
        since = (request.offset, request.epoch) if request.recover and terms.is_recoverable else None
        for _ in range(ATTEMPTS):
            snapshot = await self._look(connection, name, terms, since)
            place = self._place(name, snapshot.position, terms)
            if place is None:
                continue
            recovered = Recovered(snapshot.position, snapshot.missed) if since else None
            try:
                if any(self._ends(p, connection.user) for p in place.missed):
                    raise Refused(ErrorCode.PERMISSION_DENIED)
                if recovered and recovered.publications is None and request.flag & REJECT_UNRECOVERED:
                    raise Refused(ErrorCode.UNRECOVERABLE_POSITION)
                if connection.state is not State.CONNECTED:
                    return False
                result = _result(connection.codec, place, recovered, since)
                connection.reply(Reply(id=id, subscribe=result))
                connection.flush()
                self._settle(connection, place, is_server_side=False)
                return True
            finally:
                self._hub.release(place.channel)
        raise Refused(ErrorCode.INTERNAL)

    async def _admit(self, connection: Connection, request: SubscribeRequest) -> Terms:
        """
        Decide whether, and on which terms, a client may subscribe to a channel of a namespace.

        Raises:
            Refused
        """
        namespace = self._namespaces.find(request.channel)
        assert namespace is not None
        try:
            grant = await self._grant(connection, request, namespace)
            return make_terms(namespace, request, grant)
        except TokenExpired:
            raise Refused(ErrorCode.TOKEN_EXPIRED) from None
        except TokenInvalid:
            raise Refused(ErrorCode.PERMISSION_DENIED) from None
        except WrongToken:
            raise Refused(Disconnect.INVALID_TOKEN) from None
        except BadFilter:
            raise Refused(ErrorCode.BAD_REQUEST) from None

    async def _grant(self, connection: Connection, request: SubscribeRequest, namespace: Namespace) -> Grant:
        user = connection.identity.user
        if request.token:
            return await self._authenticator.subscription(request.token, user, request.channel)
        given = await self._extensions.subscribe(
            Subscribing(
                client=connection.client,
                identity=connection.identity,
                channel=request.channel,
                data=bytes(request.data),
            )
        )
        if given is not None:
            return given
        if not self._is_insecure and not namespace.may_subscribe(request.channel, user):
            raise Refused(ErrorCode.PERMISSION_DENIED)
        return Grant()

    async def _look(self, connection: Connection, name: str, terms: Terms, since: tuple[int, str] | None) -> Snapshot:
        """
        Read where a channel is and what was missed.

        Raises:
            Refused: the client may not hear it.
        """
        if not terms.keeps_history:
            return NOWHERE
        if terms is not CHAT:
            channel = self._hub.channels.get(name)
            if channel is not None and since is None:
                return Snapshot(Position(channel.epoch, channel.top), None)
            found: Snapshot = await self._run(read_stream, name, since, terms.is_cache)
            return found
        snapshot: Snapshot | None = await self._run(read_chat, connection.user, name, since)
        if snapshot is None:
            raise Refused(ErrorCode.PERMISSION_DENIED)
        return snapshot

    def _place(self, name: str, position: Position, terms: Terms) -> Place | None:
        """Open a channel that was read up to ``position``; None if it has gone on beyond what is at hand."""
        channel = self.relay.open(name, position.epoch, position.top)
        if channel.epoch != position.epoch:
            return None
        missed = self.relay.since(channel, position.top)
        if missed is None:
            return None
        upto = max(channel.top, position.top)
        return Place(channel, upto, missed, terms, terms.view(upto))

    def _settle(self, connection: Connection, place: Place, *, is_server_side: bool) -> None:
        """Attach a connection whose reply is written; then the others may hear of it, and it of itself."""
        name, terms = place.channel.name, place.terms
        subscription = connection.channels.get(name)
        if subscription is None:
            subscription = Subscription(is_server_side=is_server_side, is_settled=True, terms=terms)
            connection.channels[name] = subscription
        subscription.terms, subscription.is_settled = terms, True
        self._hub.attach(place.channel, connection, place.upto, view=place.view, is_watcher=terms.watches)
        if terms.expires_at != NEVER:
            connection.expire_subscription(name, terms.expires_at - time.time() + EXPIRY_GRACE_SECONDS)
        if terms.announces:
            self._tell(name, JOIN, connection.info(terms.info))

    def _tell(self, name: str, kind: str, info: Info) -> None:
        self.relay.publish([Publication(channel=name, kind=kind, data=info.store())])

    # --- renewing

    def sub_refresh(self, connection: Connection, id: int, request: messages.SubRefreshRequest) -> None:
        """Renew a subscription that expires, with a new token."""
        subscription = connection.channels.get(request.channel)
        if subscription is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        if not request.token or subscription.terms is CHAT:
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        connection.begin()
        self._tasks.spawn(self._sub_refresh(connection, id, request))

    async def _sub_refresh(self, connection: Connection, id: int, request: messages.SubRefreshRequest) -> None:
        name = request.channel
        try:
            grant = await self._authenticator.subscription(request.token, connection.identity.user, name)
        except TokenExpired:
            # Temporary, so that clients fetch another token and try again.
            error = messages.Error(ErrorCode.TOKEN_EXPIRED.value, ErrorCode.TOKEN_EXPIRED.reason, True)
            return connection.reply(Reply(id=id, error=error))
        except (TokenInvalid, WrongToken):
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        except Unavailable as error:
            return connection.give(id, outcome(error, "renewing a subscription failed"))
        finally:
            connection.finish()
        subscription = connection.channels.get(name)
        if subscription is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        subscription.terms = msgspec.structs.replace(subscription.terms, expires_at=grant.expires_at)
        expires, ttl = life(grant.expires_at)
        connection.expire_subscription(name, grant.expires_at - time.time() + EXPIRY_GRACE_SECONDS)
        connection.reply(Reply(id=id, sub_refresh=messages.SubRefreshResult(expires=expires, ttl=ttl)))

    def expired(self, connection: Connection, name: str) -> None:
        """A subscription has not been renewed in time."""
        self.end(connection, name, Unsubscribe.EXPIRED)

    def end(self, connection: Connection, name: str, code: Unsubscribe | messages.Unsubscribed) -> None:
        """End a subscription from the server's side."""
        if name not in connection.channels:
            return
        self._drop(connection, name)
        connection.unsubscribed(name, code)

    # --- by the server

    async def subscribe_from_server(
        self, connection: Connection, name: str, grant: Grant, since: tuple[int, str] | None = None
    ) -> None:
        """Put a channel of a namespace on a connection."""
        namespace = self._namespaces.find(name)
        if namespace is None or name in connection.channels or connection.state is not State.CONNECTED:
            return
        terms = make_terms(namespace, SubscribeRequest(recoverable=True, positioned=True), grant)
        await self.appear(connection, name, terms)
        try:
            await self._look_and_push(connection, name, terms, since)
        except Unsuitable:
            connection.disconnect(Disconnect.INAPPROPRIATE_PROTOCOL)
        except Exception as error:
            log_failure(error, "subscribing a client failed")
        finally:
            if terms.is_present and name not in connection.channels:
                self._presence.remove_soon(name, connection.client)

    async def _look_and_push(
        self, connection: Connection, name: str, terms: Terms, since: tuple[int, str] | None
    ) -> None:
        """
        Attach a connection, and push that, with what it missed.

        Raises:
            Unsuitable: that cannot be told in its encoding.
        """
        for _ in range(ATTEMPTS):
            snapshot = await self._look(connection, name, terms, since)
            place = self._place(name, snapshot.position, terms)
            if place is None:
                continue
            try:
                if connection.state is not State.CONNECTED or name in connection.channels:
                    return
                recovered = Recovered(snapshot.position, snapshot.missed) if since else None
                result = _result(connection.codec, place, recovered, since)
                self._announce_place(connection, place, result.offset if result.recovered else None)
                for publication in result.publications or ():
                    connection.push(Push(channel=name, pub=publication))
                return
            finally:
                self._hub.release(place.channel)

    def _announce_place(self, connection: Connection, place: Place, offset: int | None) -> None:
        terms = place.terms
        subscribed = Subscribed(data=Raw(terms.data) if terms.data else messages.NOTHING)
        if terms.is_positioned:
            subscribed.recoverable, subscribed.positioned = terms.is_recoverable, True
            subscribed.epoch = place.channel.epoch
            subscribed.offset = place.upto if offset is None else offset
        connection.push(Push(channel=place.channel.name, subscribe=subscribed))
        self._settle(connection, place, is_server_side=True)

    def promote(self, publication: Publication) -> None:
        """Subscribe those who only knew of a channel, because something happens in it. The publication follows."""
        name = publication.channel
        known = self._hub.known.pop(name, None)
        if known is None:
            return
        listeners = [c for c in known.listeners if isinstance(c, Connection) and not self._ends(publication, c.user)]
        if not listeners:
            return
        channel = self._hub.open(name, publication.epoch, publication.offset - 1)
        for connection in listeners:
            self._announce(connection, channel)

    def _announce(self, connection: Connection, channel: Channel) -> None:
        """Put a conversation on a connection."""
        if connection.state is not State.CONNECTED or channel.name in connection.channels:
            return
        self._make_room(connection)
        self._announce_place(connection, Place(channel, channel.top, [], CHAT, None), None)

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
            if isinstance(connection, Connection):
                self._invalidate(connection, channel.name)

    def _invalidate(self, connection: Connection, name: str) -> None:
        subscription = connection.channels.get(name)
        if subscription is None:
            return
        self._drop(connection, name)
        if subscription.is_server_side:
            # Clients have no way to subscribe again to what the server gave them.
            connection.disconnect(Disconnect.INSUFFICIENT_STATE)
        else:
            connection.unsubscribed(name, Unsubscribe.INSUFFICIENT_STATE)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has closed."""
        for name in tuple(connection.channels):
            self._drop(connection, name)
        for name in connection.known:
            self._hub.forget(name, connection)
        if connection.is_known:
            self._hub.depart(connection.user, connection.identity.user, connection)

    def _drop(self, connection: Connection, name: str) -> None:
        """Take a channel from a connection; the others do not see it there any more."""
        subscription = connection.channels.pop(name)
        self._hub.detach(name, connection)
        # What is not settled has not been seen, and is taken back by whoever is about to settle it.
        if not subscription.is_settled:
            return
        terms = subscription.terms
        if terms.is_present:
            self._presence.remove_soon(name, connection.client)
        if terms.announces:
            self._tell(name, LEAVE, connection.info(terms.info))

    # --- what every process has to act upon

    def _ends(self, publication: Publication, person: UUID | None) -> bool:
        """Whether a publication ends this person's right to hear its channel."""
        if publication.kind == "member.removed":
            return publication.subject == person and not publication.channel.startswith(channels.FEED)
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
            self._tasks.spawn(self._join(user, name))

    async def _join(self, user: UUID, name: str) -> None:
        for _ in range(ATTEMPTS):
            snapshot: Snapshot | None = await self._run(read_chat, user, name, None)
            if snapshot is None:
                return
            place = self._place(name, snapshot.position, CHAT)
            if place is None:
                continue
            for connection in self._connections(user):
                if not any(self._ends(p, user) for p in place.missed):
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

    async def stop(self) -> None:
        """Give up what is still under way."""
        await self._tasks.end()
        await self._openings.stop()


def _channels(opening: Opening) -> list[tuple[str, Terms, Position, Recovered | None]]:
    """All channels that a connection begins with."""
    found: list[tuple[str, Terms, Position, Recovered | None]] = []
    chat = opening.chat
    if chat is not None:
        positions = {chat.personal: chat.personal_position} | {m.channel: m.position for m in chat.memberships}
        found = [(name, CHAT, position, chat.recovered.get(name)) for name, position in positions.items()]
    for name, (terms, snapshot, was_asked) in opening.granted.items():
        recovered = Recovered(snapshot.position, snapshot.missed) if was_asked else None
        found.append((name, terms, snapshot.position, recovered))
    return found


def _result(
    codec: Codec, place: Place, recovered: Recovered | None, since: tuple[int, str] | None = None
) -> SubscribeResult:
    """
    What a reply says of a channel. Recovered, it has the position that the client had; else the present one.

    Raises:
        Unsuitable: something that was missed cannot be told in this encoding.
    """
    terms = place.terms
    result = SubscribeResult(delta=terms.has_delta)
    if terms.data:
        result.data = codec.check(terms.data)
    result.expires, result.ttl = life(terms.expires_at)
    if terms.is_positioned:
        result.recoverable, result.positioned = terms.is_recoverable, True
        result.epoch, result.offset = place.channel.epoch, place.upto
    if recovered is None:
        return result
    result.was_recovering = True
    if recovered.publications is not None:
        publications = [*recovered.publications, *place.missed]
        if terms.is_cache:
            publications = publications[-1:]
        result.recovered = True
        if not terms.is_cache:
            result.offset = since[0] if since else place.upto - len(publications)
        view = place.view
        result.publications = view.recovered(publications, codec) if view else [to_wire(p, codec) for p in publications]
    return result


def life(expires_at: float) -> tuple[bool, int]:
    """Whether something expires, and in how many seconds a client should renew it."""
    if expires_at == NEVER:
        return False, 0
    return True, max(int(expires_at - time.time()), 1)


def _used_at(channel: Channel) -> float:
    return channel.used_at
