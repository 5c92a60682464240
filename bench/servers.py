"""The servers that are measured, each with what its clients say and what to count in its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jwt

from server.embedded import free_port
from tests.servers import Deployment

from .said import ANSWERED, CONVERSATIONS, NEIGHBOURS, NUMBER, Said, in_protobuf
from .tools import Processes, accepts, wait_until

API_KEY = "a-key-for-the-benchmark-only-0123456789"
# Publications in one request.
BATCH = 100
ROOT = Path(__file__).resolve().parent.parent
PEER_NODE = ROOT / "bench" / "peer-node"
# What the Go peer's tokens are signed with; it stands there too.
SECRET = "a-secret-for-the-benchmark-only-0123456789"
FAR_AWAY = 4_000_000_000

PROTOBUF = {"PROTOBUF": "1"}
DEFLATE = {"HEADERS": "Sec-WebSocket-Extensions: permessage-deflate\r\n"}

# A request of a backend: path, headers, body.
Request = tuple[str, dict[str, str], str]


@dataclass
class Peer:
    """
    One server under load, and the conversation it understands; what it cannot do is None.

    ``client`` is for the load client. ``live`` is a channel without history; ``returning`` are people with twenty
    subscriptions and a position in each, and ``missed`` has something said in all of those.
    """

    name: str
    port: int
    path: str
    processes: Processes
    fan_out: Said
    rpc: Said
    everyone: Said | None = None
    durable: Said | None = None
    live: Said | None = None
    pairs: Said | None = None
    publish: Request | None = None
    batch: Request | None = None
    connect: Said | None = None
    returning: Said | None = None
    missed: Said | Sequence[Request] | None = None
    # Where those are served, if not with the others.
    keeping: tuple[int, Processes] | None = None
    client: Mapping[str, str] = field(default_factory=dict)
    database: Processes | None = None

    def to_everyone(self) -> Said:
        """As ``fan_out``, for as many connections as there are."""
        return self.everyone or self.fan_out


class Roost:
    """Our own web processes, and workers where they are measured, with a PostgreSQL and a Valkey of their own."""

    def __init__(self, lane: str = "picows", webs: int = 1, workers: int = 0, **settings: str) -> None:
        # The limits are for people; a load client is a thousand of them on one connection.
        namespaces = {"live": {"allow_subscribe_for_client": True, "allow_publish_for_client": True}}
        environment = {
            "ROOST_SOCKET_LANE": lane,
            "ROOST_COMMANDS_PER_SECOND": "1000000",
            "ROOST_NAMESPACES": json.dumps(namespaces),
            "ROOST_API_KEY": API_KEY,
            **settings,
        }
        self.deployment = Deployment(webs=webs, workers=workers, own_postgres=True, environment=environment)

    def __enter__(self) -> Roost:
        self.deployment.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.deployment.__exit__(*error)

    def make(self, what: str) -> Any:
        """Make people, by a function of ``bench.seed``."""
        code = f"from bench.seed import *; print({what})"
        return json.loads(self.deployment.manage("shell", "--verbosity", "0", "--command", code).splitlines()[-1])

    def processes(self, *webs: int) -> Processes:
        """Some web processes, or all."""
        return Processes([self.deployment.webs[number].pid for number in webs or range(len(self.deployment.webs))])

    def port(self, web: int = 0) -> int:
        return self.deployment.webs[web].port

    @property
    def database(self) -> Processes:
        assert self.deployment.postgres
        assert self.deployment.postgres.child
        return Processes([self.deployment.postgres.child.pid])


@contextmanager
def roost(name: str, people: int, in_group: int, lane: str = "picows") -> Iterator[Peer]:
    """One web process of ours."""
    with Roost(lane) as server:
        yield _roost_peer(server, name, people, in_group)


@contextmanager
def roost_protobuf(name: str, people: int, in_group: int) -> Iterator[Peer]:
    """The same with clients that speak Protobuf."""
    with Roost() as server:
        peer = _roost_peer(server, name, people, in_group)
        peer = replace(peer, client=PROTOBUF, publish=None, batch=None)
        for work in ("fan_out", "rpc", "everyone", "durable", "live", "pairs", "connect", "returning", "missed"):
            setattr(peer, work, in_protobuf(getattr(peer, work)))
        yield peer


@contextmanager
def roost_deflate(name: str, people: int, in_group: int) -> Iterator[Peer]:
    """The same with clients that take compressed messages."""
    with Roost(ROOST_COMPRESS_WEBSOCKETS="true") as server:
        peer = _roost_peer(server, name, people, in_group)
        yield replace(peer, client=DEFLATE, durable=None, pairs=None, publish=None, batch=None, returning=None)


def _roost_peer(server: Roost, name: str, people: int, in_group: int) -> Peer:
    seeded, returning = server.make(f"make({people}, {in_group})"), server.make(f"make_returning({people})")
    web = server.deployment.webs[0]
    connects = [connect(token) for token in seeded["tokens"]]
    subscribe = '{"id":2,"subscribe":{"channel":"live:room"}}'
    key = {"X-API-Key": API_KEY}
    publication = {"channel": "live:api", "data": {"text": "x" * 200}}
    writers = [returning["connects"][number] for number in returning["writers"]]
    return Peer(
        name=name,
        port=web.port,
        path="/connection/websocket",
        processes=server.processes(),
        fan_out=Said(connects, [send(seeded["shared"])], '"message.sent"'),
        everyone=Said(connects, [send(seeded["everyone"])], '"message.sent"'),
        rpc=Said(connects, ['{"id":3,"rpc":{"method":"ping","data":{"text":"%s"}}}'], ANSWERED),
        durable=Said(connects, [send(own) for own in seeded["own"]], ANSWERED),
        live=Said(
            [f"{connect}\t{subscribe}" for connect in connects],
            ['{"id":3,"publish":{"channel":"live:room","data":{"text":"%s"}}}'],
            '"pub":{',
        ),
        pairs=Said(connects, [send(pair) for pair in seeded["pairs"]], ANSWERED),
        publish=("/api/publish", key, json.dumps(publication)),
        batch=("/api/batch", key, json.dumps({"commands": [{"publish": publication}] * BATCH})),
        connect=Said(connects, [], ""),
        returning=Said(returning["connects"], [], ""),
        missed=Said(writers, [send(id) for id in returning["conversations"]], ANSWERED),
        database=server.database,
    )


def connect(token: str) -> str:
    """What a client with this token says first."""
    return json.dumps({"id": 1, "connect": {"token": token}})


def send(conversation: str) -> str:
    """What somebody says who sends a message."""
    data = {"conversation": conversation, "client_id": f"bench-{NUMBER}", "text": "%s"}
    return json.dumps({"id": 3, "rpc": {"method": "message.send", "data": data}}, separators=(",", ":"))


@contextmanager
def peer_go(program: Path, people: int) -> Iterator[Peer]:
    """A server on the Go library of the same protocol; nothing is stored, and history is kept in memory where asked."""
    connect = '{"id":1,"connect":{}}'
    subscribe = '{"id":2,"subscribe":{"channel":"room"}}'
    joined = [f"{connect}\t{subscribe}"]
    publication = {"data": {"text": "x" * 200}}
    command = [str(program), "-port", "{port}", "-history"]
    with process("Go", [*command, "0"]) as (port, processes), process("Go", [*command, "100"]) as (second, keeping):
        yield Peer(
            name="Go peer",
            port=port,
            path="/connection/websocket",
            processes=processes,
            fan_out=Said(joined, ['{"id":3,"publish":{"channel":"room","data":{"text":"%s"}}}'], '"pub":{'),
            rpc=Said([connect], ['{"id":3,"rpc":{"method":"ping","data":{"text":"%s"}}}'], ANSWERED),
            publish=("/api/publish", {}, json.dumps({"channel": "api", **publication})),
            connect=Said(joined, [], ""),
            returning=Said([_go_return(number) for number in range(people)], [], ""),
            missed=[
                ("/api/publish", {}, json.dumps({"channel": channel, **publication}))
                for number in range(0, people, NEIGHBOURS)
                for channel in _go_channels(number)
            ],
            keeping=(second, keeping),
        )


def _go_channels(number: int) -> list[str]:
    return [f"room-{number // NEIGHBOURS}-{each}" for each in range(CONVERSATIONS)]


def _go_return(number: int) -> str:
    names = _go_channels(number)
    token = jwt.encode({"sub": f"person-{number}", "exp": FAR_AWAY, "channels": names}, SECRET, "HS256")
    subs = {name: {"recover": True, "epoch": "", "offset": 0} for name in names}
    return json.dumps({"id": 1, "connect": {"token": token, "subs": subs}})


@contextmanager
def tutorial(redis_url: str, server: str) -> Iterator[Peer]:
    """The Channels tutorial's consumer on plain Daphne, or on uvicorn."""
    words = {
        "Daphne": ["daphne", "-v", "0", "-p", "{port}", "bench.tutorial:application"],
        "uvicorn": ["uvicorn", "--log-level", "warning", "--lifespan", "off", "--port", "{port}", "--ws", "websockets",
                    "--ws-per-message-deflate", "false", "bench.tutorial:application"],
    }[server]  # fmt: skip
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    with process(server, command, {"REDIS_URL": redis_url}) as (port, processes):
        yield Peer(
            name=f"Channels on {server}",
            port=port,
            path="/room",
            processes=processes,
            fan_out=Said([], ['{"text":"%s"}'], '"text"'),
            rpc=Said([], ['{"echo":"%s"}'], '"echo"'),
            connect=Said([], [], ""),
        )


@contextmanager
def node_ws() -> Iterator[Peer]:
    """A broadcast on ``ws``, the usual websocket library of Node."""
    with process("Node", ["node", str(PEER_NODE / "ws.js"), "{port}"]) as (port, processes):
        yield Peer(
            name="Node ws",
            port=port,
            path="/",
            processes=processes,
            fan_out=Said([], ['{"text":"%s"}'], '"text"'),
            rpc=Said([], ['{"echo":"%s"}'], '"echo"'),
            connect=Said([], [], ""),
        )


@contextmanager
def socket_io() -> Iterator[Peer]:
    """A broadcast on Socket.IO, over websockets; packets as its protocol has them."""
    with process("Socket.IO", ["node", str(PEER_NODE / "socketio.js"), "{port}"]) as (port, processes):
        # Its handshake's answer comes by itself, and then the answer to this.
        yield Peer(
            name="Socket.IO",
            port=port,
            path="/socket.io/?EIO=4&transport=websocket",
            processes=processes,
            fan_out=Said(["40"], ['42["say",{"text":"%s"}]'], '"text"'),
            rpc=Said(["40"], ['42["echo",{"text":"%s"}]'], '"text"'),
            connect=Said(["40"], [], ""),
        )


@contextmanager
def floor(program: Path) -> Iterator[Peer]:
    """A C loop that does nothing but ``send()``."""
    with process("floor", [str(program), "{port}"]) as (port, processes):
        said = Said([], ['{"text":"%s"}'], '"text"')
        yield Peer(
            name="C floor", port=port, path="/", processes=processes, fan_out=said, rpc=said, connect=Said([], [], "")
        )


def python(module: str, *words: str) -> list[str]:
    """The command of a module of ours."""
    return [sys.executable, "-m", module, *words]


@contextmanager
def process(
    name: str, command: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator[tuple[int, Processes]]:
    """A program that listens on a port, which ``{port}`` in its command stands for."""
    port = free_port()
    words = [word.format(port=port) for word in command]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, **(environment or {})}) as started:
        try:
            wait_until(lambda: accepts(port), name)
            yield port, Processes([started.pid])
        finally:
            started.terminate()
            started.wait(10)
