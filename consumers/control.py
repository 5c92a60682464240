"""
What the app's own backend may do to channels and clients: publish, subscribe, disconnect, look.

Channels of conversations and feeds are written by the chat's operations only, and given by membership only.
"""

from __future__ import annotations

import asyncio
import fnmatch
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec

from models import channels, tasks
from models.drafts import PublicationDraft
from models.events import Publication
from models.operations import history as history_operations
from models.queries import streams as stream_queries
from models.queries.streams import Position
from models.writer import Writer

from . import orders
from .connection import Connection
from .hub import Hub
from .identity import Grant
from .info import Info
from .namespaces import Namespace, Namespaces, is_chat
from .outcomes import Refused
from .presence import Presence
from .protocol import messages
from .protocol.codes import Disconnect, ErrorCode
from .relay import Relay
from .subscriptions import MAX_CHANNEL_BYTES, Subscriptions
from .views import RAW_KIND

# How long processes have to say what they have.
SURVEY_SECONDS = 3.0

Run = Callable[..., Awaitable[Any]]


class Survey:
    """The answers to one question, until all have answered."""

    def __init__(self, own: orders.Counted, others: set[str]) -> None:
        self.answers = [own]
        self._missing = others
        self.is_complete = asyncio.Event()
        if not others:
            self.is_complete.set()

    def take(self, answer: orders.Counted) -> None:
        self.answers.append(answer)
        self._missing.discard(answer.node)
        if not self._missing:
            self.is_complete.set()


class Control:
    """One per process; what concerns clients is done by all of them."""

    def __init__(
        self,
        *,
        hub: Hub,
        relay: Relay,
        writer: Writer,
        subscriptions: Subscriptions,
        presence: Presence,
        namespaces: Namespaces,
        run: Run,
    ) -> None:
        self._hub = hub
        self._relay = relay
        self._writer = writer
        self._subscriptions = subscriptions
        self._presence = presence
        self._namespaces = namespaces
        self._run = run
        self._began = time.monotonic()
        self._surveys: dict[str, Survey] = {}
        # Connections whose way in is not their way out, by their secret.
        self.emulated: dict[str, Connection] = {}
        self._tasks = tasks.Group()

    # --- publications

    def publish(
        self,
        channel: str,
        data: bytes,
        *,
        tags: dict[str, str] | None = None,
        delta: bool = False,
        skip_history: bool = False,
        idempotency_key: str = "",
    ) -> Future[Publication] | None:
        """
        Publish in a channel. None if it keeps no history: all is done then.

        Raises:
            Refused: there is no such channel, it is the chat's, or the data is empty.
            DomainError: what the writer refuses; by the future.
        """
        namespace = None if channels.personal_user_id(channel) else self._found(channel, is_written=True)
        if not data:
            raise Refused(ErrorCode.BAD_REQUEST)
        delta = delta or (namespace is not None and namespace.delta_publish)
        if not self.keeps(channel, skip_history=skip_history):
            publication = Publication(channel=channel, data=data, kind=RAW_KIND, tags=tags, delta=delta)
            self._relay.publish([publication])
            return None
        draft = PublicationDraft(
            channel=channel, data=data, tags=tags, delta=delta, idempotency_key=idempotency_key or None
        )
        return self._writer.publish(draft)

    def keeps(self, channel: str, *, skip_history: bool = False) -> bool:
        """Whether a publication in this channel is kept."""
        if channels.personal_user_id(channel):
            return True
        namespace = self._namespaces.find(channel)
        return namespace is not None and namespace.keeps_history and not skip_history

    async def history(
        self, channel: str, *, limit: int = 0, since: messages.StreamPosition | None = None, reverse: bool = False
    ) -> tuple[list[Publication], Position]:
        """
        Read a page of a channel's history.

        Raises:
            Refused
        """
        newest, seconds = 0, 0.0
        if not is_chat(channel):
            namespace = self._found(channel)
            if not namespace.keeps_history:
                raise Refused(ErrorCode.NOT_AVAILABLE)
            newest, seconds = namespace.history_size, namespace.history_seconds
        if reverse and since and since.offset == 0:
            raise Refused(ErrorCode.BAD_REQUEST)
        page = await self._run(
            stream_queries.history,
            channel,
            since=since.offset if since else None,
            limit=limit,
            reverse=reverse,
            newest=newest,
            seconds=seconds,
        )
        if page is None:
            raise Refused(ErrorCode.UNKNOWN_CHANNEL)
        publications, position = page
        if since and since.epoch not in ("", position.epoch):
            raise Refused(ErrorCode.UNRECOVERABLE_POSITION)
        return publications, position

    async def remove_history(self, channel: str) -> None:
        """
        Remove all that a channel keeps; its clients load afresh.

        Raises:
            Refused
        """
        if not self._found(channel, is_written=True).keeps_history:
            raise Refused(ErrorCode.NOT_AVAILABLE)
        await self._run(history_operations.remove_history, channel=channel)

    async def presence(self, channel: str) -> Mapping[str, Info]:
        """
        Who is in a channel, by client.

        Raises:
            Refused
        """
        if is_chat(channel) or not self._found(channel).presence:
            raise Refused(ErrorCode.NOT_AVAILABLE)
        return await self._presence.read(channel)

    def _found(self, channel: str, *, is_written: bool = False) -> Namespace:
        """
        The namespace of a channel of the operator's own.

        Raises:
            Refused: there is none, or the channel is the chat's.
        """
        if not 0 < len(channel) <= MAX_CHANNEL_BYTES or not channel.isascii():
            raise Refused(ErrorCode.BAD_REQUEST)
        if is_chat(channel):
            raise Refused(ErrorCode.PERMISSION_DENIED if is_written else ErrorCode.NOT_AVAILABLE)
        namespace = self._namespaces.find(channel)
        if namespace is None:
            raise Refused(ErrorCode.UNKNOWN_CHANNEL)
        return namespace

    # --- clients

    def subscribe(self, order: orders.Subscribe) -> None:
        """
        Put a channel on a user's connections, on whatever process they are.

        Raises:
            Refused
        """
        self._found(order.channel, is_written=True)
        self._everywhere(order)

    def unsubscribe(self, order: orders.Unsubscribe) -> None:
        """Take a channel from a user's connections, or all that are not the chat's."""
        self._everywhere(order)

    def disconnect(self, order: orders.Disconnect) -> None:
        """Close a user's connections."""
        self._everywhere(order)

    def refresh(self, order: orders.Refresh) -> None:
        """Change when a user's connections end."""
        self._everywhere(order)

    def _everywhere(self, order: orders.AnyOrder) -> None:
        self._relay.order(orders.encode(order))
        self._carry_out(order)

    def emulate(self, node: str, session: str, data: bytes) -> bool | None:
        """Give a client's connection what it said; whether there is one, None if there is no such process."""
        if node == self._relay.node:
            return self._take(session, data)
        if node not in self._relay.others():
            return None
        self._relay.order(orders.encode(orders.Emulate(node=node, session=session, data=data)))
        return True

    def _take(self, session: str, data: bytes) -> bool:
        connection = self.emulated.get(session)
        if connection is None:
            return False
        connection.receive(data, connection.codec.is_text)
        return True

    def end_emulated(self) -> None:
        """The process stops: clients without websockets come back to another."""
        for connection in list(self.emulated.values()):
            connection.disconnect(Disconnect.SHUTDOWN)

    # --- what there is

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """The channels that have subscribers, with how many on all processes together; ``pattern`` as in a shell."""
        total: dict[str, int] = {}
        for counted in await self.survey():
            for name, clients in counted.channels.items():
                if not pattern or fnmatch.fnmatchcase(name, pattern):
                    total[name] = total.get(name, 0) + clients
        return total

    async def survey(self) -> list[orders.Counted]:
        """Ask every process what it has; those that do not answer in time are left out."""
        id = uuid4().hex
        survey = self._surveys[id] = Survey(self._count(id, self._relay.node), self._relay.others())
        self._relay.order(orders.encode(orders.Count(survey=id, asked_by=self._relay.node)))
        with suppress(TimeoutError):
            async with asyncio.timeout(SURVEY_SECONDS):
                await survey.is_complete.wait()
        return self._surveys.pop(id).answers

    def _count(self, survey: str, asked_by: str) -> orders.Counted:
        hub = self._hub
        by_channel = {name: len(channel.everyone) for name, channel in hub.channels.items()}
        return orders.Counted(
            survey=survey,
            asked_by=asked_by,
            node=self._relay.node,
            channels=by_channel,
            clients=sum(map(len, hub.names.values())),
            users=len(hub.names),
            subscriptions=sum(by_channel.values()),
            uptime=int(time.monotonic() - self._began),
        )

    # --- on every process

    def obey(self, order: bytes) -> None:
        """Carry out an order of another process; one of a newer version is passed over."""
        try:
            self._carry_out(orders.decode(order))
        except msgspec.MsgspecError:
            return

    def _carry_out(self, order: orders.AnyOrder) -> None:
        match order:
            case orders.Count():
                self._relay.order(orders.encode(self._count(order.survey, order.asked_by)))
            case orders.Counted():
                if order.asked_by == self._relay.node and order.survey in self._surveys:
                    self._surveys[order.survey].take(order)
            case orders.Emulate():
                if order.node == self._relay.node:
                    self._take(order.session, order.data)
            case orders.Disconnect():
                for connection in self._connections(order):
                    if connection.client not in order.whitelist:
                        connection.disconnect(messages.Disconnected(order.code, order.reason))
            case orders.Unsubscribe():
                for connection in self._connections(order):
                    self._unsubscribe(connection, order)
            case orders.Subscribe():
                grant = Grant(info=order.info, data=order.data, override=order.override)
                for connection in self._connections(order):
                    self._tasks.spawn(
                        self._subscriptions.subscribe_from_server(connection, order.channel, grant, order.since)
                    )
            case orders.Refresh():
                for connection in self._connections(order):
                    connection.renewed(order.expire_at - time.time() if order.expire_at else None, order.is_expired)

    def _unsubscribe(self, connection: Connection, order: orders.Unsubscribe) -> None:
        names: Iterable[str] = [order.channel] if order.channel else list(connection.channels)
        for name in names:
            if not is_chat(name):
                self._subscriptions.end(connection, name, messages.Unsubscribed(order.code, order.reason))

    def _connections(self, order: orders.AboutUser) -> list[Connection]:
        return [
            connection
            for connection in tuple(self._hub.names.get(order.user, ()))
            if isinstance(connection, Connection)
            and order.client in ("", connection.client)
            and order.session in ("", str(connection.session))
        ]

    async def stop(self) -> None:
        """Give up what is still under way."""
        await self._tasks.end()
