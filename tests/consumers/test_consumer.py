"""The consumer by standard ASGI events, as any ASGI server brings them: the official test client of Channels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from consumers.consumer import MAX_UNSENT_BYTES, Outbox
from consumers.engine import Engine
from consumers.protocol.codes import Disconnect
from consumers.protocol.framing import binary_frame, text_frame
from models import channels, threads
from server.asgi import application
from tests import factories

from .phone import Person
from .wire import until

PATH = "/connection/websocket"
Open = Callable[..., Any]


@pytest.fixture
async def open_socket(engine: Engine) -> AsyncIterator[Open]:
    """``await open_socket()`` is a websocket that was accepted; it is closed when the test ends."""
    sockets: list[WebsocketCommunicator] = []

    async def open(subprotocols: list[str] | None = None, query: str = "") -> WebsocketCommunicator:
        socket = WebsocketCommunicator(application, PATH + query, subprotocols=subprotocols)
        sockets.append(socket)
        is_accepted, socket.chosen = await socket.connect()
        assert is_accepted
        return socket

    yield open
    for socket in sockets:
        await socket.disconnect()


async def ask(socket: WebsocketCommunicator, id: int, **command: Any) -> dict[str, Any]:
    """Send one command and return its reply, passing over pushes."""
    await socket.send_to(text_data=json.dumps({"id": id, **command}))
    while True:
        for line in (await socket.receive_from(timeout=5)).split("\n"):
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") == id:
                return reply


async def connect(socket: WebsocketCommunicator, person: Person) -> dict[str, Any]:
    reply = await ask(socket, 1, connect={"token": factories.access_token(person.login)})
    result: dict[str, Any] = reply["connect"]
    return result


async def hear_close(socket: WebsocketCommunicator) -> tuple[int, str]:
    while (event := await socket.receive_output(timeout=5))["type"] != "websocket.close":
        pass
    return event["code"], event["reason"]


async def test_a_client_connects_calls_and_leaves(open_socket: Open, engine: Engine, alice: Person) -> None:
    socket = await open_socket()

    result = await connect(socket, alice)
    me = await ask(socket, 2, rpc={"method": "user.me"})
    echo = await ask(socket, 3, rpc={"method": "ping", "data": {"a": [1]}})

    assert result["data"]["user"] == str(alice.id)
    assert (result["ping"], result["pong"], result["expires"]) == (25, True, True)
    assert 0 < result["ttl"] <= 15 * 60
    assert (me["rpc"]["data"]["id"], me["rpc"]["data"]["name"]) == (str(alice.id), "Alice")
    assert echo == {"id": 3, "rpc": {"data": {"a": [1]}}}
    assert alice.id in engine.hub.users
    await socket.disconnect()
    assert alice.id not in engine.hub.users


async def test_a_message_goes_from_one_socket_to_another(open_socket: Open, alice: Person, bob: Person) -> None:
    group = (await threads.run(factories.make_group, alice.user, bob.user)).id
    hers, his = await open_socket(), await open_socket()
    await connect(hers, alice)
    await connect(his, bob)

    data = {"conversation": str(group), "client_id": "1", "text": "héllo \U0001f98a"}
    sent = await ask(hers, 2, rpc={"method": "message.send", "data": data})
    push = json.loads(await his.receive_from(timeout=5))["push"]

    assert push["channel"] == channels.chat(group)
    message = push["pub"]["data"]["message"]
    assert (message["id"], message["text"]) == (sent["rpc"]["data"]["id"], "héllo \U0001f98a")


async def test_a_method_says_what_is_wrong_in_words_for_programs(open_socket: Open, alice: Person) -> None:
    socket = await open_socket()
    await connect(socket, alice)
    nobody = "01998a3e-52b4-7c1e-9d5c-0d3e8f0a1b2c"

    unknown = await ask(socket, 2, rpc={"method": "fly"})
    malformed = await ask(socket, 3, rpc={"method": "message.get", "data": {"id": 7}})
    missing = await ask(socket, 4, rpc={"method": "message.get", "data": {"id": nobody}})
    not_theirs = {"conversation": nobody, "client_id": "1", "text": "hello"}
    elsewhere = await ask(socket, 5, rpc={"method": "message.send", "data": not_theirs})

    assert unknown["error"] == {"code": 104, "message": "method not found"}
    assert malformed["error"]["code"] == 400
    assert malformed["error"]["message"].startswith("invalid_input")
    assert missing["error"] == {"code": 404, "message": "message_not_found"}
    assert elsewhere["error"] == {"code": 404, "message": "conversation_not_found"}


@pytest.mark.parametrize(
    ("offered", "query", "chosen", "speaks"),
    [
        (["centrifuge-json"], "", "centrifuge-json", "json"),
        (["other", "centrifuge-json"], "", "centrifuge-json", "json"),
        (["centrifuge-json", "centrifuge-protobuf"], "", "centrifuge-protobuf", "protobuf"),
        (["other"], "", None, "json"),
        ([""], "", None, "json"),
        (None, "", None, "json"),
        (None, "?cf_protocol_version=v2&cf_protocol=protobuf", None, "protobuf"),
        (["other"], "?format=protobuf", None, "protobuf"),
        (["centrifuge-json"], "?format=protobuf", "centrifuge-json", "json"),
    ],
)
async def test_the_encoding_is_what_was_asked_for(
    open_socket: Open, offered: list[str] | None, query: str, chosen: str | None, speaks: str
) -> None:
    socket = await open_socket(offered, query)

    await socket.send_to(
        **({"bytes_data": b"\x04\x08\x01\x22\x00"} if speaks == "protobuf" else {"text_data": '{"id":1,"connect":{}}'})
    )

    assert socket.chosen == chosen
    # A connect without a token: understood, and refused.
    assert await hear_close(socket) == (3501, "bad request")


@pytest.mark.parametrize("data", [{"text_data": "hello"}, {"text_data": " "}, {"bytes_data": b"\xff\x00"}])
async def test_what_is_not_the_protocol_is_closed_with_the_reason(open_socket: Open, data: dict[str, Any]) -> None:
    socket = await open_socket()

    await socket.send_to(**data)

    assert await hear_close(socket) == (3501, "bad request")


async def test_a_token_of_somebody_else_is_closed_for_good(open_socket: Open) -> None:
    socket = await open_socket()

    await socket.send_to(text_data=json.dumps({"id": 1, "connect": {"token": "eyJ"}}))

    assert await hear_close(socket) == (3500, "invalid token")


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(
    open_socket: Open, engine: Engine, alice: Person
) -> None:
    socket = await open_socket()
    await connect(socket, alice)

    await socket.send_to(text_data='{"id":2,"rpc":{"method":"user.me"}}')
    await socket.disconnect()

    assert (engine.hub.users, engine.hub.channels) == ({}, {})


# --- the way out over ASGI


class Peer:
    """The server's side of ``send``; takes nothing while it is stuck."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.free = asyncio.Event()

    async def send(self, event: dict[str, Any]) -> None:
        await self.free.wait()
        self.events.append(event)


@pytest.fixture
async def peer() -> Peer:
    return Peer()


@pytest.fixture
async def outbox(peer: Peer) -> AsyncIterator[Outbox]:
    outbox = Outbox(peer.send)
    running = asyncio.create_task(outbox.run())
    yield outbox
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_frames_arrive_as_messages_in_order(outbox: Outbox, peer: Peer) -> None:
    peer.free.set()

    outbox.write(text_frame("é".encode() * 100_000))
    outbox.write(text_frame(b"x" * 200))
    outbox.write(binary_frame(b"\x00"))
    outbox.close(3001, "shutdown")
    outbox.write(text_frame(b"too late"))

    await until(lambda: len(peer.events) == 4, "messages")
    assert peer.events == [
        {"type": "websocket.send", "text": "é" * 100_000},
        {"type": "websocket.send", "text": "x" * 200},
        {"type": "websocket.send", "bytes": b"\x00"},
        {"type": "websocket.close", "code": 3001, "reason": "shutdown"},
    ]


async def test_who_does_not_take_what_is_written_is_closed_and_costs_no_more(outbox: Outbox, peer: Peer) -> None:
    frame = text_frame(b"x" * 60_000)

    for _ in range(10 * MAX_UNSENT_BYTES // len(frame)):
        outbox.write(frame)
    assert len(outbox._frames) == 0
    peer.free.set()

    await until(lambda: peer.events, "close")
    assert peer.events[-1] == {"type": "websocket.close", "code": 3008, "reason": Disconnect.SLOW.reason}


async def test_a_connection_that_is_not_read_can_still_be_closed(outbox: Outbox, peer: Peer) -> None:
    outbox.pause()
    assert not outbox.readable.is_set()

    outbox.close(3013, "too many requests")
    outbox.pause()

    assert outbox.readable.is_set(), "or its departure would never be noticed"
