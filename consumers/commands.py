"""What each command of the protocol does; ``rpc`` has the methods, ``subscriptions`` the channels."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import msgspec

from models import channels
from models.drafts import MessageDraft, StoredMessage
from models.errors import DomainError, SessionRevoked, TokenExpired, TokenInvalid, Unavailable
from models.queries import admission
from models.queries import streams as stream_queries
from models.receipts import ReceiptBatcher
from models.writer import Writer

from . import rpc
from .connection import Connection, State
from .hub import to_wire
from .protocol import messages
from .protocol.codes import Disconnect, ErrorCode
from .protocol.messages import ConnectResult, HistoryResult, RefreshResult, Reply
from .rpc import Content, Method
from .subscriptions import ATTEMPTS, Subscriptions, is_known_namespace
from .tokens import AccessTokens, Claims

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
        tokens: AccessTokens,
        devices: Devices,
        run: Run,
        ping_seconds: int,
    ) -> None:
        self._writer = writer
        self._receipts = receipts
        self._subscriptions = subscriptions
        self._tokens = tokens
        self._devices = devices
        self._run = run
        self._ping_seconds = ping_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.subscribe = subscriptions.subscribe
        self.unsubscribe = subscriptions.unsubscribe

    async def stop(self) -> None:
        """Give up what is still under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- connecting

    def connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None:
        if not request.token:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        try:
            claims = self._tokens.verify(request.token)
        except TokenExpired:
            return connection.refuse_connect(id, ErrorCode.TOKEN_EXPIRED)
        except TokenInvalid:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        self._spawn(self._connect(connection, id, request, claims))

    async def _connect(self, connection: Connection, id: int, request: messages.ConnectRequest, claims: Claims) -> None:
        try:
            for _ in range(ATTEMPTS):
                snapshot = await self._subscriptions.begin(claims.user, claims.session, request.subs)
                attached = self._subscriptions.attach_all(connection, snapshot)
                if attached:
                    break
            else:
                return connection.refuse_connect(id, ErrorCode.INTERNAL)
        except SessionRevoked:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        except Exception as error:
            _log_outage(error, "connecting failed")
            return connection.refuse_connect(id, ErrorCode.INTERNAL)
        subs, places = attached
        if connection.state is not State.CONNECTING:
            return self._subscriptions.release(places)
        seconds = claims.expires_at - time.time()
        connection.connected(claims.user, claims.session, claims.device, seconds)
        result = ConnectResult(
            client=connection.client,
            version=VERSION,
            expires=True,
            ttl=max(int(seconds), 1),
            data=messages.Raw(
                rpc.encode(
                    {
                        "user": claims.user,
                        "device": claims.device,
                        "session": claims.session,
                        "more_conversations": bool(snapshot.others or snapshot.is_cut),
                    }
                )
            ),
            subs=subs,
            ping=self._ping_seconds,
            pong=True,
        )
        connection.reply(Reply(id=id, connect=result))
        connection.flush()
        self._subscriptions.settle_all(connection, snapshot, places)
        self._devices.add(claims.device)

    def closed(self, connection: Connection) -> None:
        self._subscriptions.leave(connection)
        if connection.device is not None:
            self._devices.remove(connection.device)

    def refresh(self, connection: Connection, id: int, request: messages.RefreshRequest) -> None:
        if not request.token:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        try:
            claims = self._tokens.verify(request.token)
        except TokenExpired:
            return connection.disconnect(Disconnect.EXPIRED)
        except TokenInvalid:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        if claims.user != connection.user or claims.session != connection.session:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        connection.begin()
        self._spawn(self._refresh(connection, id, claims))

    async def _refresh(self, connection: Connection, id: int, claims: Claims) -> None:
        try:
            alive = await self._run(admission.is_session_alive, user_id=claims.user, session_id=claims.session)
        except Exception as error:
            _log_outage(error, "refreshing failed")
            return connection.refuse(id, ErrorCode.INTERNAL)
        finally:
            connection.finish()
        if not alive:
            return connection.disconnect(Disconnect.INVALID_TOKEN)
        seconds = claims.expires_at - time.time()
        connection.expire_in(seconds)
        connection.reply(Reply(id=id, refresh=RefreshResult(expires=True, ttl=max(int(seconds), 1))))

    # --- messages

    def publish(self, connection: Connection, id: int, request: messages.PublishRequest) -> None:
        """Publishing in a conversation is sending: the data is ``message.send``'s, the answer empty."""
        conversation = channels.conversation_id(request.channel)
        if not request.channel:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if not is_known_namespace(request.channel):
            return connection.refuse(id, ErrorCode.UNKNOWN_CHANNEL)
        if conversation is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        try:
            content = rpc.decode_content(request.data)
        except msgspec.MsgspecError:
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        self._send(connection, id, conversation, content, _published)

    def rpc(self, connection: Connection, id: int, request: messages.RPCRequest) -> None:
        """Call a method; sending, the most frequent one, without making a task."""
        if request.method == rpc.SEND:
            try:
                draft = rpc.decode_send(request.data)
            except msgspec.MsgspecError as error:
                return connection.reply(Reply(id=id, error=rpc.invalid(error)))
            return self._send(connection, id, draft.conversation, draft, _sent)
        if request.method == rpc.PING:
            return connection.answer(connection.codec.encode_rpc(id, bytes(request.data) or b"null"))
        method = rpc.METHODS.get(request.method)
        if method is None:
            return connection.refuse(id, ErrorCode.METHOD_NOT_FOUND)
        try:
            arguments = method.decode(request.data)
        except msgspec.MsgspecError as error:
            return connection.reply(Reply(id=id, error=rpc.invalid(error)))
        connection.begin()
        self._spawn(self._call(connection, id, method, arguments))

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
        answer: Callable[[Connection, int, StoredMessage], None],
        future: asyncio.Future[StoredMessage],
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
            _log_outage(error, "a method failed")
            connection.reply(Reply(id=id, error=rpc.failed(error)))
        else:
            connection.answer(connection.codec.encode_rpc(id, data))
        finally:
            connection.finish()
            if method.may_log_out:
                connection.release_close()

    # --- channels

    def history(self, connection: Connection, id: int, request: messages.HistoryRequest) -> None:
        name = request.channel
        if not name:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        if not is_known_namespace(name):
            return connection.refuse(id, ErrorCode.UNKNOWN_CHANNEL)
        if request.reverse and request.since and request.since.offset == 0:
            return connection.refuse(id, ErrorCode.BAD_REQUEST)
        connection.begin()
        self._spawn(self._history(connection, id, request))

    async def _history(self, connection: Connection, id: int, request: messages.HistoryRequest) -> None:
        try:
            page = await self._run(_history, connection.user, request)
        except Exception as error:
            _log_outage(error, "reading history failed")
            return connection.refuse(id, ErrorCode.INTERNAL)
        finally:
            connection.finish()
        if page is None:
            return connection.refuse(id, ErrorCode.PERMISSION_DENIED)
        publications, position = page
        since = request.since
        if since and since.epoch not in ("", position.epoch):
            return connection.refuse(id, ErrorCode.UNRECOVERABLE_POSITION)
        result = HistoryResult([to_wire(p, connection.codec) for p in publications], position.epoch, position.top)
        connection.reply(Reply(id=id, history=result))

    def presence(self, connection: Connection, id: int, request: messages.PresenceRequest) -> None:
        if not request.channel:
            return connection.disconnect(Disconnect.BAD_REQUEST)
        known = is_known_namespace(request.channel)
        connection.refuse(id, ErrorCode.NOT_AVAILABLE if known else ErrorCode.UNKNOWN_CHANNEL)

    def sub_refresh(self, connection: Connection, id: int, request: messages.SubRefreshRequest) -> None:
        # Our subscriptions do not expire, so there is none to refresh.
        is_held = request.channel in connection.channels
        connection.refuse(id, ErrorCode.BAD_REQUEST if is_held else ErrorCode.PERMISSION_DENIED)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _published(connection: Connection, id: int, stored: StoredMessage) -> None:
    connection.reply(Reply(id=id, publish=messages.Empty()))


def _sent(connection: Connection, id: int, stored: StoredMessage) -> None:
    connection.answer(connection.codec.encode_rpc(id, rpc.encode(rpc.Sent.of(stored))))


def _log_outage(error: Exception, what: str) -> None:
    """An outage is one line; anything else is a bug, with its traceback."""
    if isinstance(error, Unavailable) or rpc.is_outage(error):
        log.warning("%s: %s", what, error)
    else:
        log.error("%s", what, exc_info=error)


# --- in a thread


def _encoded(method: Method, caller: rpc.Caller, arguments: Any) -> bytes:
    return rpc.encode(method.call(caller, arguments))


def _history(user: UUID, request: messages.HistoryRequest) -> Any:
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
