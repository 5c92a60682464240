"""A phone whose socket is a fake: it talks to a running engine as bytes, and keeps what it hears."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID

from channels.layers import InMemoryChannelLayer
from django.conf import settings

from consumers.connection import Pace
from consumers.engine import Engine
from consumers.extensions import Extensions
from consumers.namespaces import Namespaces
from consumers.protocol.codec import Codec
from consumers.protocol.codes import Disconnect
from consumers.protocol.json import JSON
from models import channels, threads
from models.operations.sessions import OpenedSession
from models.user import User
from server import wiring
from server.doorbell import Doorbell
from server.live_devices import LiveDevices
from server.presence import RedisPresence
from tests import factories
from tests.models.scene import dsn

from .wire import Wire, line, until


def make_engine(namespaces: str = "", *, is_insecure: bool = False, extensions: Extensions | None = None) -> Engine:
    """An engine on the test's database, with a channel layer of its own."""
    redis_url = settings.ROOST.redis_url
    return Engine(
        dsn=dsn(),
        authenticator=wiring.authenticator(),
        namespaces=Namespaces.parse(namespaces),
        make_presence=lambda: RedisPresence(redis_url),
        make_devices=lambda: LiveDevices(redis_url),
        make_layer=InMemoryChannelLayer,
        pace=Pace(ping=25, pong=10, commands=1000),
        make_bell=lambda: Doorbell(redis_url),
        require_durable=False,
        extensions=extensions or Extensions(),
        is_insecure=is_insecure,
    )


class Person:
    """Somebody who is logged in on one phone."""

    def __init__(self, name: str) -> None:
        self.user: User = factories.make_user(name)
        self.id: UUID = self.user.id
        self.login: OpenedSession = factories.make_session(self.user)
        self.channel = channels.personal(self.user.id)

    async def send(self, conversation: UUID, *texts: str) -> None:
        """Send over another door than the phone's."""
        for text in texts:
            await threads.run(factories.send, self.user, conversation, text)


class Phone:
    """One socket of a person."""

    def __init__(self, engine: Engine, login: OpenedSession | str, codec: Codec = JSON) -> None:
        self.wire = Wire()
        self.connection = engine.connection(self.wire, codec)
        self._token = login if isinstance(login, str) else factories.access_token(login)
        self._ids = count(1)

    async def connect(self, **subs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Connect, recovering what is given, and return what the reply says of each channel."""
        reply = await self.ask(connect={"token": self._token, "subs": subs})
        found: dict[str, dict[str, Any]] = reply["connect"].get("subs", {})
        return found

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and return its reply."""
        id = next(self._ids)
        self.say(line(id=id, **command))
        await until(lambda: self._reply(id), f"answer to {command}")
        return self._reply(id) or {}

    async def subscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        return await self.ask(subscribe={"channel": channel, **fields})

    def say(self, *commands: bytes) -> None:
        """Send one frame."""
        self.connection.receive(b"\n".join(commands))

    def drop(self) -> None:
        """Lose the connection."""
        self.connection.lost()

    def _reply(self, id: int) -> dict[str, Any] | None:
        return next((reply for reply in self.wire.replies if reply.get("id") == id), None)

    def heard(self, channel: str) -> list[dict[str, Any]]:
        """What was published in a channel and came with an offset."""
        pushes = (push for push in self.wire.pushes if push.get("channel") == channel and "pub" in push)
        return [push["pub"] for push in pushes if "offset" in push["pub"]]

    def kinds(self, channel: str) -> list[str]:
        return [publication["data"]["type"] for publication in self.heard(channel)]

    def texts(self, channel: str) -> list[str]:
        """The messages that people wrote."""
        return texts(self.heard(channel))

    def pushed(self, what: str) -> list[tuple[str, dict[str, Any]]]:
        """The pushes of one sort (``subscribe``, ``unsubscribe``), each with its channel."""
        return [(push["channel"], push[what]) for push in self.wire.pushes if what in push]

    async def until_closed(self, code: Disconnect) -> None:
        await until(lambda: self.wire.closed, "close")
        assert self.wire.is_closed_with(code), self.wire.closed

    async def until_texts(self, channel: str, *expected: str) -> None:
        await until(lambda: len(self.texts(channel)) >= len(expected), f"{expected}, only {self.texts(channel)}")
        assert self.texts(channel) == list(expected)


def texts(publications: list[dict[str, Any]]) -> list[str]:
    """The messages that people wrote, among publications."""
    messages = [p["data"]["message"] for p in publications if p["data"]["type"] == "message.sent"]
    return [message["text"] for message in messages if message["kind"] == "text"]
