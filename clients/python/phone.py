"""
A phone on the official SDK (PyPI ``centrifuge-python``), driven by the same lines of JSON as ``../js/phone.mjs``.

``python phone.py`` (or ``--protobuf``), then ``{"do": "connect", "url": "ws://…/connection/websocket", "token": "…"}``
and so on.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from centrifuge import (
    Client,
    ClientEventHandler,
    ConnectedContext,
    ConnectingContext,
    DeltaType,
    DisconnectedContext,
    ErrorContext,
    JoinContext,
    LeaveContext,
    PublicationContext,
    ServerPublicationContext,
    ServerSubscribedContext,
    ServerUnsubscribedContext,
    StreamPosition,
    SubscribedContext,
    SubscriptionEventHandler,
    UnsubscribedContext,
)
from centrifuge.exceptions import CentrifugeError

# In Protobuf an app's data is bytes; ours is JSON in them.
IS_PROTOBUF = "--protobuf" in sys.argv


def pack(data: Any) -> Any:
    return json.dumps(data).encode() if IS_PROTOBUF else data


def unpack(data: Any) -> Any:
    return json.loads(data) if IS_PROTOBUF and data else data


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def position(context: Any) -> dict[str, Any] | None:
    where = getattr(context, "stream_position", None)
    return {"offset": where.offset, "epoch": where.epoch} if where else None


class Events(ClientEventHandler):
    """Says what happens to the connection and to the subscriptions that the server made."""

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        say("connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx: ConnectedContext) -> None:
        say("connected", client=ctx.client, data=unpack(ctx.data))

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        say("disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: ErrorContext) -> None:
        say("error", error=str(ctx))

    async def on_subscribed(self, ctx: ServerSubscribedContext) -> None:
        say(
            "subscribed",
            channel=ctx.channel,
            was_recovering=ctx.was_recovering,
            recovered=ctx.recovered,
            position=position(ctx),
        )

    async def on_unsubscribed(self, ctx: ServerUnsubscribedContext) -> None:
        say("unsubscribed", channel=ctx.channel)

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        say("publication", channel=ctx.channel, offset=ctx.pub.offset, data=unpack(ctx.pub.data))


class ChannelEvents(SubscriptionEventHandler):
    """The same for a subscription that the phone made itself."""

    def __init__(self, channel: str) -> None:
        self.channel = channel

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        say(
            "subscribed",
            channel=self.channel,
            was_recovering=ctx.was_recovering,
            recovered=ctx.recovered,
            position=position(ctx),
        )

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        say("unsubscribed", channel=self.channel, code=ctx.code, reason=ctx.reason)

    async def on_join(self, ctx: JoinContext) -> None:
        say("join", channel=self.channel, user=ctx.info.user)

    async def on_leave(self, ctx: LeaveContext) -> None:
        say("leave", channel=self.channel, user=ctx.info.user)

    async def on_publication(self, ctx: PublicationContext) -> None:
        say("publication", channel=self.channel, offset=ctx.pub.offset, data=unpack(ctx.pub.data))


def giver(token: str, next_tokens: list[str], channel: str = "") -> Callable[..., Awaitable[str]]:
    """The tokens of a connection or a subscription, one after another; the last one stays."""
    left = [token, *next_tokens]

    async def get_token(event: Any = None) -> str:
        say("token", channel=channel)
        if len(left) > 1:
            left.pop(0)
        return left[0]

    return get_token


class Phone:
    """One client; each command is a method of its name."""

    client: Client

    async def connect(self, url: str, token: str, next_tokens: list[str] | None = None) -> None:
        self.client = Client(
            url,
            events=Events(),
            token=token,
            get_token=giver(token, next_tokens or []),
            use_protobuf=IS_PROTOBUF,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
        )
        await self.client.connect()

    async def disconnect(self) -> None:
        await self.client.disconnect()

    async def reconnect(self, url: str = "") -> None:
        if url:
            self.client._address = url  # the SDK has no public way to move to another address
        await self.client.connect()

    async def subscribe(self, channel: str, options: dict[str, Any] | None = None) -> None:
        chosen = dict(options or {})
        token = chosen.get("token")
        delta = DeltaType.FOSSIL if chosen.get("delta") else None

        get_token = giver(str(token), chosen.get("next_tokens", []), channel)
        subscription = self.client.new_subscription(
            channel,
            events=ChannelEvents(channel),
            join_leave=bool(chosen.get("joinLeave")),
            delta=delta,
            **({"token": token, "get_token": get_token} if token else {}),
        )
        await subscription.subscribe()

    async def unsubscribe(self, channel: str) -> None:
        subscription = self.client.get_subscription(channel)
        assert subscription
        await subscription.unsubscribe()

    async def rpc(self, id: int, method: str, data: Any) -> None:
        async def ask() -> Any:
            return unpack((await self.client.rpc(method, pack(data))).data)

        await self._answer(id, ask)

    async def publish(self, id: int, channel: str, data: Any) -> None:
        async def ask() -> None:
            await self.client.publish(channel, pack(data))

        await self._answer(id, ask)

    async def presence(self, id: int, channel: str) -> None:
        async def ask() -> Any:
            there = (await self.client.presence(channel)).clients
            return {client: {"user": info.user} for client, info in there.items()}

        await self._answer(id, ask)

    async def presence_stats(self, id: int, channel: str) -> None:
        async def ask() -> Any:
            stats = await self.client.presence_stats(channel)
            return {"numClients": stats.num_clients, "numUsers": stats.num_users}

        await self._answer(id, ask)

    async def history(self, id: int, channel: str, options: dict[str, Any]) -> None:
        async def ask() -> Any:
            since = options.pop("since", None)
            page = await self.client.history(channel, since=StreamPosition(**since) if since else None, **options)
            publications = [{"data": unpack(pub.data), "offset": pub.offset} for pub in page.publications]
            return {"publications": publications, "epoch": page.epoch, "offset": page.offset}

        await self._answer(id, ask)

    async def _answer(self, id: int, ask: Callable[[], Awaitable[Any]]) -> None:
        try:
            data = await ask()
        except CentrifugeError as error:
            say("reply", id=id, error={"code": getattr(error, "code", 0), "message": str(error)})
        else:
            say("reply", id=id, data=data)


async def main() -> None:
    phone = Phone()
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        action = command.pop("do")
        if action == "exit":
            break
        task = asyncio.ensure_future(getattr(phone, action)(**command))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
