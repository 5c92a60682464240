"""
The app's own Python: methods that clients call, and a word in who may connect, subscribe and publish.

A module that ``ROOST_EXTENSIONS`` names registers functions with ``extend``; they are coroutines, and run in the event
loop, so what blocks belongs into ``asyncio.to_thread``. See docs/extensions.md.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from .identity import Grant, Identity

__all__ = [
    "Call",
    "Close",
    "Connecting",
    "Extensions",
    "Grant",
    "Identity",
    "Publishing",
    "Refuse",
    "Subscribing",
    "extend",
]

log = logging.getLogger(__name__)

# Clients wait five seconds for an answer.
SECONDS = 4.0
# The numbers of errors and closes that belong to applications.
ERRORS = range(400, 2000)
CLOSES = range(4000, 5000)

Value = TypeVar("Value")


class Refuse(Exception):
    """Answer a command with an error of the app's; ``code`` is 400 to 1999."""

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        if code not in ERRORS or not message:
            raise ValueError("an error of an app has a code of 400 to 1999 and a message")
        super().__init__(message)
        self.code = code
        self.message = message
        self.temporary = temporary


class Close(Exception):
    """Close the connection; after 4000 to 4499 clients come back, after 4500 to 4999 they do not."""

    def __init__(self, code: int, reason: str) -> None:
        if code not in CLOSES or not reason:
            raise ValueError("a close of an app has a code of 4000 to 4999 and a reason")
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Connecting(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody connects; ``identity`` is what the token says, None without one. ``headers`` are the client's word."""

    identity: Identity | None
    client: str
    data: bytes
    name: str
    version: str
    headers: Mapping[str, str]


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """One connection."""

    client: str
    identity: Identity


class Subscribing(Client, frozen=True, kw_only=True):
    """A client wants to hear a channel of a namespace."""

    channel: str
    data: bytes


class Publishing(Client, frozen=True, kw_only=True):
    """A client wants to publish in a channel of a namespace."""

    channel: str
    data: bytes


class Call(Client, frozen=True, kw_only=True):
    """A client calls a method; ``data`` is what it sent, JSON from JSON clients."""

    method: str
    data: bytes

    def read(self, type: type[Value]) -> Value:
        """
        Decode the data as JSON of a type.

        Raises:
            Refuse: it is something else (400).
        """
        try:
            return msgspec.json.decode(self.data or b"null", type=type)
        except msgspec.MsgspecError as error:
            raise Refuse(400, f"invalid_input: {error}"[:200]) from None


OnConnect = Callable[[Connecting], Awaitable[Identity | None]]
OnSubscribe = Callable[[Subscribing], Awaitable[Grant | None]]
OnPublish = Callable[[Publishing], Awaitable[bytes | None]]
OnEvent = Callable[[Client], Awaitable[None]]
OnCall = Callable[[Call], Awaitable[object]]


class Extensions:
    """What the app has registered."""

    def __init__(self) -> None:
        self.methods: dict[str, OnCall] = {}
        self._on_connect: list[OnConnect] = []
        self._on_subscribe: list[OnSubscribe] = []
        self._on_publish: list[OnPublish] = []
        self._on_connected: list[OnEvent] = []
        self._on_disconnected: list[OnEvent] = []

    # --- registering, as decorators

    def rpc(self, name: str) -> Callable[[OnCall], OnCall]:
        """Serve a method; what it returns is answered as JSON, bytes as they are."""

        def register(function: OnCall) -> OnCall:
            if name in self.methods:
                raise ValueError(f"there is a method {name!r} already")
            self.methods[name] = function
            return function

        return register

    def on_connect(self, function: OnConnect) -> OnConnect:
        """Decide who may connect; what it returns replaces who somebody is, None leaves it to the token."""
        self._on_connect.append(function)
        return function

    def on_subscribe(self, function: OnSubscribe) -> OnSubscribe:
        """Decide who may subscribe; a ``Grant`` lets them, None leaves it to the namespace and the token."""
        self._on_subscribe.append(function)
        return function

    def on_publish(self, function: OnPublish) -> OnPublish:
        """Look at what is published, before it is; bytes replace it. What a namespace forbids never gets here."""
        self._on_publish.append(function)
        return function

    def on_connected(self, function: OnEvent) -> OnEvent:
        """Hear of clients that have connected."""
        self._on_connected.append(function)
        return function

    def on_disconnected(self, function: OnEvent) -> OnEvent:
        """Hear of clients that have gone."""
        self._on_disconnected.append(function)
        return function

    # --- asking them; each raises ``Refuse``, ``Close`` or ``TimeoutError``

    @property
    def decides_on_connect(self) -> bool:
        return bool(self._on_connect)

    @property
    def decides_on_publish(self) -> bool:
        return bool(self._on_publish)

    async def connect(self, connecting: Connecting) -> Identity | None:
        """Who somebody is, after everyone was asked."""
        async with asyncio.timeout(SECONDS):
            for decide in self._on_connect:
                found = await decide(connecting)
                if found is not None:
                    connecting = msgspec.structs.replace(connecting, identity=found)
        return connecting.identity

    async def subscribe(self, subscribing: Subscribing) -> Grant | None:
        """The first grant that somebody gives."""
        if not self._on_subscribe:
            return None
        async with asyncio.timeout(SECONDS):
            for decide in self._on_subscribe:
                grant = await decide(subscribing)
                if grant is not None:
                    return grant
        return None

    async def publish(self, publishing: Publishing) -> bytes:
        """What is to be published."""
        async with asyncio.timeout(SECONDS):
            for decide in self._on_publish:
                data = await decide(publishing)
                if data is not None:
                    publishing = msgspec.structs.replace(publishing, data=data)
        return publishing.data

    async def call(self, call: Call) -> bytes:
        """The answer of a method, as JSON."""
        async with asyncio.timeout(SECONDS):
            found = await self.methods[call.method](call)
        return found if isinstance(found, bytes) else msgspec.json.encode(found)

    async def tell(self, client: Client, *, is_connected: bool) -> None:
        """Tell whoever wants to know; one that fails stops nobody."""
        for hear in self._on_connected if is_connected else self._on_disconnected:
            try:
                async with asyncio.timeout(SECONDS):
                    await hear(client)
            except Exception:
                log.exception("an extension failed")

    def wants_events(self, *, is_connected: bool) -> bool:
        return bool(self._on_connected if is_connected else self._on_disconnected)


# Where the modules that ROOST_EXTENSIONS names register what they have.
extend = Extensions()


def load(modules: Iterable[str]) -> Extensions:
    """
    Import the app's modules, and return what they registered.

    Raises:
        ImportError: one of them cannot be imported.
    """
    for module in modules:
        importlib.import_module(module)
    return extend
