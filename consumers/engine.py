"""
All that the sockets of a process share: writer, receipts, hub, relay, and the handlers of connections.

``manage.py serve`` builds and starts it; under another ASGI server the first websocket does. ``current`` finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from models import streams, threads
from models.events import Publication
from models.operations import deployment
from models.queries import streams as stream_queries
from models.receipts import ReceiptBatcher
from models.writer import Writer

from .authentication import Authenticator
from .commands import Commands, Devices
from .connection import Connection, Pace, Wire
from .control import Control
from .extensions import Extensions
from .hub import Hub
from .namespaces import Namespaces
from .presence import Presence
from .protocol.codec import Codec
from .relay import Relay
from .subscriptions import Subscriptions
from .timers import Timers


class LiveDevices(Devices, Protocol):
    """Tells workers which devices have a socket."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...


class KeptPresence(Presence, Protocol):
    """Keeps who is in which channel."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...


class Bell(Protocol):
    """Wakes those who send pushes."""

    def ring(self) -> None: ...
    async def close(self) -> None: ...


log = logging.getLogger(__name__)

# What the writer has taken is stored within this time after the sockets are closed.
STOP_SECONDS = 5.0

# Asked for by every request of a backend; an engine that stops takes itself out.
_engines: dict[asyncio.AbstractEventLoop, Engine] = {}
_starting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Engine]] = WeakKeyDictionary()
_build: Callable[[], Engine] | None = None


def build_with(build: Callable[[], Engine]) -> None:
    """Say how an engine is made where nobody has started one; ``server.wiring`` does."""
    global _build
    _build = build


def current() -> Engine:
    """Return the running engine of this event loop."""
    return _engines[asyncio.get_running_loop()]


async def obtain() -> Engine:
    """Return the running engine of this event loop, started by whoever asks first."""
    loop = asyncio.get_running_loop()
    engine = _engines.get(loop)
    if engine is not None:
        return engine
    starting = _starting.get(loop)
    if starting is None or starting.done():
        starting = _starting[loop] = loop.create_task(_start())
    # Whoever gives up waiting must not take it from the others.
    return await asyncio.shield(starting)


async def _start() -> Engine:
    assert _build is not None, "nobody has said how an engine is built: see server.wiring"
    engine = _build()
    await engine.start()
    return engine


class Engine:
    """
    One per process, started in its event loop.

    What is given as ``make_…`` belongs to the event loop, and is made when the engine starts. The bell is rung after
    each commit, since any may have to wake phones.
    """

    def __init__(
        self,
        *,
        dsn: str,
        authenticator: Authenticator,
        namespaces: Namespaces,
        make_presence: Callable[[], KeptPresence],
        make_devices: Callable[[], LiveDevices],
        make_layer: Callable[[], Any],
        pace: Pace,
        make_bell: Callable[[], Bell],
        require_durable: bool,
        extensions: Extensions,
        is_insecure: bool = False,
    ) -> None:
        self._extensions = extensions
        self.namespaces = namespaces
        self._authenticator = authenticator
        self._make_presence = make_presence
        self._is_insecure = is_insecure
        self._dsn = dsn
        self._pace = pace
        self._make_devices = make_devices
        self._make_layer = make_layer
        self._make_bell = make_bell
        self._require_durable = require_durable

    async def start(self) -> None:
        """
        Begin to serve; neither Redis nor PostgreSQL has to be there yet.

        Raises:
            UnsafeDatabase: PostgreSQL would acknowledge what a crash can lose.
        """
        self._loop = asyncio.get_running_loop()
        self._timers = Timers()
        self._devices = self._make_devices()
        self._bell = self._make_bell()
        self.receipts = ReceiptBatcher()
        self.hub = Hub(self._loop.call_soon, self._loop.time)
        self.presence = self._make_presence()
        self._subscriptions = Subscriptions(
            self.hub,
            threads.run,
            namespaces=self.namespaces,
            authenticator=self._authenticator,
            presence=self.presence,
            extensions=self._extensions,
            is_insecure=self._is_insecure,
        )
        self.relay = self._subscriptions.relay = self._make_relay()
        self.writer = Writer(self._dsn, on_committed=self._committed, require_durable=self._require_durable)
        self.control = Control(
            hub=self.hub,
            relay=self.relay,
            writer=self.writer,
            subscriptions=self._subscriptions,
            presence=self.presence,
            namespaces=self.namespaces,
            run=threads.run,
        )
        self._commands = Commands(
            writer=self.writer,
            receipts=self.receipts,
            subscriptions=self._subscriptions,
            relay=self.relay,
            authenticator=self._authenticator,
            namespaces=self.namespaces,
            presence=self.presence,
            devices=self._devices,
            run=threads.run,
            extensions=self._extensions,
            ping_seconds=int(self._pace.ping),
            is_insecure=self._is_insecure,
        )
        await self.writer.start()
        await self.relay.start()
        self._devices.start()
        self.presence.start()
        self._hear_no_more = streams.on_publish(self._published_by_a_thread)
        _engines[self._loop] = self

    def end_streams(self) -> None:
        """Close what is no websocket, which the socket layers do not know of."""
        self.control.end_emulated()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Store what was taken, for at most ``seconds``, and end everything."""
        _engines.pop(self._loop, None)
        self._hear_no_more()
        await self.writer.stop(seconds)
        await self.receipts.stop()
        await self._commands.stop()
        await self.control.stop()
        await self._subscriptions.stop()
        await self.relay.stop()
        await self._devices.stop()
        await self.presence.stop()
        await self._bell.close()
        self._timers.stop()

    def _make_relay(self) -> Relay:
        return Relay(
            self.hub,
            make_layer=self._make_layer,
            gaps=lambda ranges: threads.run(stream_queries.gaps, ranges),
            unseen=lambda snapshot, tops: threads.run(_unseen, snapshot, tops),
            lost=self._subscriptions.lost,
            promote=self._subscriptions.promote,
            obey=lambda order: self.control.obey(order),
        )

    def connection(self, wire: Wire, codec: Codec) -> Connection:
        """Make the client of a new socket."""
        connection = Connection(wire, self._commands, self._loop, self._pace, codec)
        self._timers.add(connection, connection.on_time(self._loop.time()) or 0)
        return connection

    def _committed(self, publications: list[Publication]) -> None:
        self.relay.publish(publications)
        self._bell.ring()

    def _published_by_a_thread(self, publications: list[Publication]) -> None:
        # Operations run in threads; the relay belongs to the loop.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._committed, publications)


def _unseen(snapshot: str | None, tops: Mapping[str, int]) -> tuple[list[Publication], str]:
    """What the watch asks every few seconds; a failover is noticed on the way."""
    if deployment.follow_timeline():
        log.warning("the database has failed over: a new epoch has begun")
    return stream_queries.unseen(snapshot, tops)
