"""All that the sockets of a process share: writer, receipts, hub, relay, and the handlers of connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from models import streams, threads
from models.events import Publication
from models.queries import streams as stream_queries
from models.receipts import ReceiptBatcher
from models.writer import Writer

from .commands import Commands, Devices
from .connection import Connection, Pace, Wire
from .hub import Hub
from .relay import Relay
from .subscriptions import Subscriptions
from .timers import Timers
from .tokens import AccessTokens


class LiveDevices(Devices, Protocol):
    """Tells workers which devices have a socket."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...


class Engine:
    """
    One per process, made in its event loop.

    ``on_commit`` is called after each commit that may have to wake phones.
    """

    def __init__(
        self,
        *,
        dsn: str,
        tokens: AccessTokens,
        devices: LiveDevices,
        make_layer: Callable[[], Any],
        pace: Pace,
        on_commit: Callable[[], None],
        require_durable: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._devices = devices
        self._on_commit = on_commit
        self.tokens = tokens
        self.receipts = ReceiptBatcher()
        self.hub = Hub(self._loop.call_soon, self._loop.time)
        self._subscriptions = Subscriptions(self.hub, threads.run)
        self.relay = Relay(
            self.hub,
            make_layer=make_layer,
            gaps=lambda ranges: threads.run(stream_queries.gaps, ranges),
            unseen=lambda snapshot, tops: threads.run(stream_queries.unseen, snapshot, tops),
            lost=self._subscriptions.lost,
            promote=self._subscriptions.promote,
        )
        self._subscriptions.relay = self.relay
        self.writer = Writer(dsn, on_committed=self._committed, require_durable=require_durable)
        self._commands = Commands(
            writer=self.writer,
            receipts=self.receipts,
            subscriptions=self._subscriptions,
            tokens=tokens,
            devices=devices,
            run=threads.run,
            ping_seconds=int(pace.ping),
        )

    async def start(self) -> None:
        """
        Begin to serve; neither Redis nor PostgreSQL has to be there yet.

        Raises:
            UnsafeDatabase: PostgreSQL would acknowledge what a crash can lose.
        """
        self._timers = Timers()
        await self.writer.start()
        await self.relay.start()
        self._devices.start()
        self._hear_no_more = streams.on_publish(self._published_by_a_thread)

    async def stop(self, seconds: float) -> None:
        """Store what was taken, for at most ``seconds``, and end everything."""
        self._hear_no_more()
        await self.writer.stop(seconds)
        await self.receipts.stop()
        await self._commands.stop()
        await self._subscriptions.stop()
        await self.relay.stop()
        await self._devices.stop()
        self._timers.stop()

    def connection(self, wire: Wire) -> Connection:
        """Make the client of a new socket."""
        connection = Connection(wire, self._commands, self._loop, self._pace)
        self._timers.add(connection, connection.on_time(self._loop.time()) or 0)
        return connection

    def _committed(self, publications: list[Publication]) -> None:
        self.relay.publish(publications)
        self._on_commit()

    def _published_by_a_thread(self, publications: list[Publication]) -> None:
        # Operations run in threads; the relay belongs to the loop.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._committed, publications)
