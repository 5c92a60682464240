"""What each command of the protocol does; ``rpc`` has the methods, ``subscriptions`` the channels."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import msgspec

from models import channels, tasks
from models.drafts import MessageDraft, PublicationDraft, StoredMessage
from models.errors import DomainError, InvalidInput, SessionRevoked, TokenExpired, TokenInvalid
from models.events import Publication
from models.queries import admission
from models.queries import streams as stream_queries
from models.receipts import ReceiptBatcher
from models.writer import Writer

from . import rpc
from .authentication import Authenticator
from .connection import NOBODY, Connection, State
from .extensions import Call, Client, Connecting, Extensions, Publishing
from .identity import Identity
from .info import Info
from .namespaces import Namespace, Namespaces, is_chat
from .openings import Opening
from .outcomes import Refused, log_failure, outcome
from .presence import Presence
from .protocol import messages
from .protocol.codec import Codec, Unsuitable
from .protocol.codes import Disconnect, ErrorCode
from .protocol.messages import ConnectResult, HistoryResult, Raw, RefreshResult, Reply, SubscribeResult
from .relay import Relay
from .rpc import Content, Method
from .subscriptions import ATTEMPTS, MAX_CHANNEL_BYTES, Place, Subscriptions, life
from .views import RAW_KIND, to_wire

log = logging.getLogger(__name__)

VERSION = "roost 0.1"

Run = Callable[..., Awaitable[Any]]


class Devices(Protocol):
    """Who is told which devices have a socket."""

    def add(self, device_id: UUID) -> None: ...
    def remove(self, device_id: UUID) -> None: ...


class Commands:
    """The handlers of all connections of a process (``connection.Handlers``)."""

    def __init__(
        self,
        *,
        writer: Writer,
        receipts: ReceiptBatcher,
        subscriptions: Subscriptions,
        relay: Relay,
        authenticator: Authenticator,
        namespaces: Namespaces,
        presence: Presence,
        devices: Devices,
        run: Run,
        extensions: Extensions,
        ping_seconds: int,
        is_insecure: bool,
    ) -> None:
        self._writer = writer
        self._receipts = receipts
        self._subscriptions = subscriptions
        self._relay = relay
        self._authenticator = authenticator
        self._namespaces = namespaces
        self._presence = presence
        self._devices = devices
        self._run = run
        self._extensions = extensions
        self._ping_seconds = ping_seconds
        self._is_insecure = is_insecure
        self._tasks = tasks.Group()
        self.subscribe = subscriptions.subscribe
        self.unsubscribe = subscriptions.unsubscribe
        self.sub_refresh = subscriptions.sub_refresh
        self.expired = subscriptions.expired

    async def stop(self) -> None:
        """Give up what is still under way."""
        await self._tasks.end()

    # --- connecting

    def connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None:
        if not request.token and not self._is_insecure and not self._extensions.decides_on_connect:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        self._tasks.spawn(self._connect(connection, id, request))

    async def _connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None:
        try:
            await self._try_to_connect(connection, id, request)
        except Exception as error:
            connection.refuse_connect(id, outcome(error, "connecting failed"))

    async def _try_to_connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None:
        try:
            identity = await self._identify(connection, request)
            opening, subs, places = await self._open(connection, identity, request)
        except TokenExpired:
            raise Refused(ErrorCode.TOKEN_EXPIRED) from None
        except (TokenInvalid, SessionRevoked, InvalidInput):
            raise Refused(Disconnect.INVALID_TOKEN) from None
        if connection.state is not State.CONNECTING:
            self._subscriptions.vanish(connection, opening)
            return self._subscriptions.release(places)
        identity = opening.identity
        connection.connected(identity, identity.expires_at - time.time())
        connection.reply(Reply(id=id, connect=self._connect_result(connection, opening, subs)))
        connection.flush()
        self._subscriptions.settle_all(connection, opening, places)
        if identity.device is not None:
            self._devices.add(identity.device)
        self._tell(connection, is_connected=True)

    async def _open(
        self, connection: Connection, identity: Identity, request: messages.ConnectRequest
    ) -> tuple[Opening, dict[str, SubscribeResult], list[Place]]:
        """
        Read what a connection begins with, let others see it, and find where to attach it.

        Raises:
            SessionRevoked, Refused, Unsuitable
        """
        for _ in range(ATTEMPTS):
            opening = await self._subscriptions.begin(identity, request)
            # Others see it as what it is called here.
            connection.identity = opening.identity
            attached = None
            try:
                for name, (terms, _, _) in opening.granted.items():
                    await self._subscriptions.appear(connection, name, terms)
                attached = self._subscriptions.attach_all(connection, opening)
            finally:
                if attached is None:
                    self._subscriptions.vanish(connection, opening)
            if attached:
                return opening, *attached
        raise Refused(ErrorCode.INTERNAL)

    async def _identify(self, connection: Connection, request: messages.ConnectRequest) -> Identity:
        """
        Find out who connects, by the token and by the app's own word.

        Raises:
            Refused: nobody knows.
            TokenExpired, TokenInvalid, Refuse, Close
        """
        found = await self._authenticator.connection(request.token) if request.token else None
        if self._extensions.decides_on_connect:
            connecting = Connecting(
                identity=found,
                client=connection.client,
                data=bytes(request.data),
                name=request.name,
                version=request.version,
                headers=request.headers,
            )
            found = await self._extensions.connect(connecting)
        if found is not None:
            return found
        if not self._is_insecure:
            raise Refused(Disconnect.BAD_REQUEST)
        return NOBODY

    def _connect_result(
        self, connection: Connection, opening: Opening, subs: dict[str, SubscribeResult]
    ) -> ConnectResult:
        result = ConnectResult(
            client=connection.client,
            version=VERSION,
            subs=subs or None,
            ping=self._ping_seconds,
            pong=True,
        )
        result.expires, result.ttl = life(opening.identity.expires_at)
        if connection.emulation:
            result.session, result.node = connection.emulation, self._relay.node
        identity, chat = opening.identity, opening.chat
        if chat is not None:
            about = {
                "user": identity.person,
                "device": identity.device,
                "session": identity.session,
                "more_conversations": bool(chat.others or chat.is_cut),
            }
            result.data = Raw(rpc.encode(about))
        return result

    def closed(self, connection: Connection) -> None:
        self._subscriptions.leave(connection)
        if connection.device is not None:
            self._devices.remove(connection.device)
        if connection.is_known:
            self._tell(connection, is_connected=False)

    def _tell(self, connection: Connection, *, is_connected: bool) -> None:
        """Tell the app who has come or gone, if it wants to know."""
        if self._extensions.wants_events(is_connected=is_connected):
            client = Client(client=connection.client, identity=connection.identity)
            self._tasks.spawn(self._extensions.tell(client, is_connected=is_connected))

    def refresh(self, connection: Connection, id: int, request: messages.RefreshRequest) -> None:
        if not request.token:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        connection.begin()
        self._tasks.spawn(self._refresh(connection, id, request.token))

    async def _refresh(self, connection: Connection, id: int, token: str) -> None:
        try:
            identity = await self._authenticator.connection(token)
            is_same = (identity.user, identity.session) == (connection.identity.user, connection.session)
            if not is_same or not await self._is_alive(identity):
                return connection.disconnect(Disconnect.INVALID_TOKEN)
        except TokenExpired:
            return connection.disconnect(Disconnect.EXPIRED)
        except TokenInvalid:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        except Exception as error:
            return connection.give(id, outcome(error, "refreshing failed"))
        finally:
            connection.finish()
        connection.expire_in(identity.expires_at - time.time())
        expires, ttl = life(identity.expires_at)
        connection.reply(Reply(id=id, refresh=RefreshResult(expires=expires, ttl=ttl)))

    async def _is_alive(self, identity: Identity) -> bool:
        """Whether the session of a token of ours may still be used."""
        if identity.session is None:
            return True
        alive: bool = await self._run(admission.is_session_alive, user_id=identity.person, session_id=identity.session)
        return alive

    # --- messages

    def publish(self, connection: Connection, id: int, request: messages.PublishRequest) -> None:
        """Publish in a channel. In a conversation that is sending: the data is ``message.send``'s, the answer empty."""
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        conversation = channels.conversation_id(name)
        if conversation is None:
            return self._publish(connection, id, request)
        if connection.user is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        try:
            content = rpc.decode_content(request.data)
        except msgspec.MsgspecError:
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        self._send(connection, id, conversation, content, _published)

    def _publish(self, connection: Connection, id: int, request: messages.PublishRequest) -> None:
        """Publish in a channel of a namespace."""
        name = request.channel
        if is_chat(name):
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        namespace = self._namespaces.find(name)
        if namespace is None:
            return connection.refuse(id, ErrorCode.UNKNOWN_CHANNEL)
        subscription = connection.channels.get(name)
        is_subscribed = subscription is not None and subscription.is_settled
        if not self._is_insecure and not namespace.may_publish(connection.identity.user, is_subscribed=is_subscribed):
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        if not request.data or not namespace.names(name) or len(name) > MAX_CHANNEL_BYTES or not name.isascii():
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        info = connection.info(subscription.terms.info if subscription else b"").store()
        data = bytes(request.data)
        if self._extensions.decides_on_publish:
            connection.begin()
            return self._tasks.spawn(self._publish_if_the_app_agrees(connection, id, namespace, name, data, info))
        self._publish_now(connection, id, namespace, name, data, info)

    async def _publish_if_the_app_agrees(
        self, connection: Connection, id: int, namespace: Namespace, name: str, data: bytes, info: bytes
    ) -> None:
        publishing = Publishing(client=connection.client, identity=connection.identity, channel=name, data=data)
        try:
            agreed = await self._extensions.publish(publishing)
        except Exception as error:
            return connection.give(id, outcome(error, "an extension failed"))
        finally:
            connection.finish()
        self._publish_now(connection, id, namespace, name, agreed, info)

    def _publish_now(
        self, connection: Connection, id: int, namespace: Namespace, name: str, data: bytes, info: bytes
    ) -> None:
        if not namespace.keeps_history:
            self._relay.publish([Publication(channel=name, data=data, kind=RAW_KIND, info=info)])
            return connection.reply(Reply(id=id, publish=messages.Empty()))
        connection.begin()
        draft = PublicationDraft(channel=name, data=data, info=info, delta=namespace.delta_publish)
        self._writer.publish(draft).add_done_callback(partial(self._stored, connection, id, _published))

    def rpc(self, connection: Connection, id: int, request: messages.RPCRequest) -> None:
        """Call a method; sending, the most frequent one, without making a task."""
        if request.method == rpc.PING:
            return connection.answer(connection.codec.encode_rpc(id, bytes(request.data) or b"null"))
        if request.method in self._extensions.methods:
            connection.begin()
            return self._tasks.spawn(self._call_the_app(connection, id, request))
        if connection.user is None:
            return connection.refuse(id, ErrorCode.UNAUTHORIZED)
        if request.method == rpc.SEND:
            try:
                draft = rpc.decode_send(request.data)
            except msgspec.MsgspecError as error:
                return connection.reply(Reply(id=id, error=rpc.invalid(error)))
            return self._send(connection, id, draft.conversation, draft, _sent)
        method = rpc.METHODS.get(request.method)
        if method is None:
            return connection.refuse(id, ErrorCode.METHOD_NOT_FOUND)
        try:
            arguments = method.decode(request.data)
        except msgspec.MsgspecError as error:
            return connection.reply(Reply(id=id, error=rpc.invalid(error)))
        connection.begin()
        self._tasks.spawn(self._call(connection, id, method, arguments))

    async def _call_the_app(self, connection: Connection, id: int, request: messages.RPCRequest) -> None:
        call = Call(
            client=connection.client,
            identity=connection.identity,
            method=request.method,
            data=bytes(request.data),
        )
        try:
            data = await self._extensions.call(call)
        except Exception as error:
            connection.give(id, outcome(error, "an extension failed"))
        else:
            connection.answer(connection.codec.encode_rpc(id, data))
        finally:
            connection.finish()

    def _send(
        self,
        connection: Connection,
        id: int,
        conversation: UUID,
        content: Content,
        answer: Callable[[Connection, int, StoredMessage], None],
    ) -> None:
        assert connection.user is not None
        future = self._writer.send(
            MessageDraft(
                sender=connection.user,
                sender_device=connection.device,
                conversation=conversation,
                client_id=content.client_id,
                text=content.text,
                data=content.data,
                mentions=tuple(content.mentions),
                reply_to=content.reply_to,
                kind=content.kind,
            )
        )
        connection.begin()
        future.add_done_callback(partial(self._stored, connection, id, answer))

    def _stored(
        self,
        connection: Connection,
        id: int,
        answer: Callable[[Connection, int, Any], None],
        future: asyncio.Future[Any],
    ) -> None:
        connection.finish()
        if future.cancelled():
            return connection.refuse(id, ErrorCode.INTERNAL)
        error = future.exception()
        if error is None:
            answer(connection, id, future.result())
        elif isinstance(error, DomainError):
            connection.reply(Reply(id=id, error=rpc.refused(error)))
        else:
            log.error("sending failed", exc_info=error)
            connection.refuse(id, ErrorCode.INTERNAL)

    async def _call(self, connection: Connection, id: int, method: Method, arguments: Any) -> None:
        assert connection.user is not None
        caller = rpc.Caller(connection.user, connection.device, connection.session, self._receipts)
        if method.may_log_out:
            connection.hold_close()
        try:
            if method.is_immediate:
                data = rpc.encode(method.call(caller, arguments))
            else:
                data = await self._run(_encoded, method, caller, arguments)
        except DomainError as error:
            connection.reply(Reply(id=id, error=rpc.refused(error)))
        except Exception as error:
            log_failure(error, "a method failed")
            connection.reply(Reply(id=id, error=rpc.failed(error)))
        else:
            connection.answer(connection.codec.encode_rpc(id, data))
        finally:
            connection.finish()
            if method.may_log_out:
                connection.release_close()

    def send(self, connection: Connection, request: messages.SendRequest) -> None:
        """A message to the server that wants no answer; nobody here listens."""

    # --- channels

    def history(self, connection: Connection, id: int, request: messages.HistoryRequest) -> None:
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if not is_chat(name):
            namespace = self._namespaces.find(name)
            if error := self._refusal(connection, name, namespace and namespace.keeps_history, "may_read_history"):
                return connection.refuse(id, error)
        if request.reverse and request.since and request.since.offset == 0:
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        connection.begin()
        self._tasks.spawn(self._history(connection, id, request))

    def _refusal(self, connection: Connection, name: str, is_offered: object, permission: str) -> ErrorCode | None:
        """Why a client may not look at a channel of a namespace."""
        namespace = self._namespaces.find(name)
        if namespace is None:
            return ErrorCode.UNKNOWN_CHANNEL
        if not is_offered:
            return ErrorCode.NOT_AVAILABLE
        subscription = connection.channels.get(name)
        is_subscribed = subscription is not None and subscription.is_settled
        permits = getattr(namespace, permission)
        if self._is_insecure or permits(connection.identity.user, is_subscribed=is_subscribed):
            return None
        return ErrorCode.PERMISSION_DENIED

    async def _history(self, connection: Connection, id: int, request: messages.HistoryRequest) -> None:
        name = request.channel
        try:
            if is_chat(name):
                page = await self._run(_history, connection.user, request)
            else:
                namespace = self._namespaces.find(name)
                assert namespace is not None
                page = await self._run(read_history, namespace, name, request)
        except Exception as error:
            return connection.give(id, outcome(error, "reading history failed"))
        finally:
            connection.finish()
        if page is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        publications, position = page
        since = request.since
        if since and since.epoch not in ("", position.epoch):
            return connection.refuse(id, ErrorCode.UNRECOVERABLE_POSITION)
        try:
            shown = [to_wire(p, connection.codec) for p in publications]
        except Unsuitable:
            return connection.disconnect(Disconnect.INAPPROPRIATE_PROTOCOL)
        connection.reply(Reply(id=id, history=HistoryResult(shown, position.epoch, position.top)))

    def presence(self, connection: Connection, id: int, request: messages.PresenceRequest) -> None:
        self._ask_presence(connection, id, request.channel, _presence)

    def presence_stats(self, connection: Connection, id: int, request: messages.PresenceRequest) -> None:
        self._ask_presence(connection, id, request.channel, _presence_stats)

    def _ask_presence(
        self, connection: Connection, id: int, name: str, answer: Callable[[int, Mapping[str, Info], Codec], Reply]
    ) -> None:
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if is_chat(name):
            return connection.refuse(id, ErrorCode.NOT_AVAILABLE)
        namespace = self._namespaces.find(name)
        if error := self._refusal(connection, name, namespace and namespace.presence, "may_see_presence"):
            return connection.refuse(id, error)
        connection.begin()
        self._tasks.spawn(self._read_presence(connection, id, name, answer))

    async def _read_presence(
        self, connection: Connection, id: int, name: str, answer: Callable[[int, Mapping[str, Info], Codec], Reply]
    ) -> None:
        there = await self._presence.read(name)
        connection.finish()
        connection.reply(answer(id, there, connection.codec))


def _presence(id: int, there: Mapping[str, Info], codec: Codec) -> Reply:
    shown = {client: info.to_wire(codec) for client, info in there.items()}
    return Reply(id=id, presence=messages.PresenceResult(shown))


def _presence_stats(id: int, there: Mapping[str, Info], codec: Codec) -> Reply:
    users = len({info.user for info in there.values()})
    return Reply(id=id, presence_stats=messages.PresenceStatsResult(len(there), users))


def _published(connection: Connection, id: int, stored: object) -> None:
    connection.reply(Reply(id=id, publish=messages.Empty()))


def _sent(connection: Connection, id: int, stored: StoredMessage) -> None:
    connection.answer(connection.codec.encode_rpc(id, rpc.encode(rpc.Sent.of(stored))))


# --- in a thread


def _encoded(method: Method, caller: rpc.Caller, arguments: Any) -> bytes:
    return rpc.encode(method.call(caller, arguments))


def read_history(namespace: Namespace, name: str, request: messages.HistoryRequest) -> Any:
    """A page of the history of a namespace's channel: what is beyond its size or age is not shown."""
    return stream_queries.history(
        name,
        since=request.since.offset if request.since else None,
        limit=request.limit,
        reverse=request.reverse,
        newest=namespace.history_size,
        seconds=namespace.history_seconds,
    )


def _history(user: UUID | None, request: messages.HistoryRequest) -> Any:
    if user is None:
        return None
    floor = admission.floor(user_id=user, channel=request.channel)
    if floor is None:
        return None
    return stream_queries.history(
        request.channel,
        since=request.since.offset if request.since else None,
        limit=request.limit,
        reverse=request.reverse,
        floor_offset=floor,
    )
