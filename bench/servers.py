"""The servers that are measured, each with what its clients say and what to count in its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.embedded import free_port
from tests.servers import Deployment

from .tools import Processes, accepts, wait_until

API_KEY = "a-key-for-the-benchmark-only-0123456789"
# Publications in one request.
BATCH = 100
ROOT = Path(__file__).resolve().parent.parent
# Seven places that the load client fills with a number of its own, so that no two messages are repeats.
NUMBER = "@@@@@@@"


# What a client says first, what it says under load, and what to count in the answers.
Said = tuple[Sequence[str], Sequence[str], str]


@dataclass
class Peer:
    """One server under load, and the conversation it understands."""

    name: str
    port: int
    path: str
    processes: Processes
    fan_out: Said
    rpc: Said
    durable: Said | None = None
    # The same in a channel that keeps nothing, among those in the group; in direct conversations, everyone at once.
    live: Said | None = None
    pairs: Said | None = None
    # Where and how a backend publishes: path, headers, body.
    publish: tuple[str, dict[str, str], str] | None = None
    batch: tuple[str, dict[str, str], str] | None = None
    connect: Sequence[str] = ()
    database: Processes | None = None


@contextmanager
def roost(name: str, people: int, in_group: int, lane: str = "picows") -> Iterator[Peer]:
    """Our own web process, with PostgreSQL and Valkey of its own."""
    # The limits are for people; a load client is a thousand of them on one connection.
    namespaces = {"live": {"allow_subscribe_for_client": True, "allow_publish_for_client": True}}
    environment = {
        "ROOST_SOCKET_LANE": lane,
        "ROOST_COMMANDS_PER_SECOND": "1000000",
        "ROOST_NAMESPACES": json.dumps(namespaces),
        "ROOST_API_KEY": API_KEY,
    }
    with Deployment(webs=1, own_postgres=True, environment=environment) as deployment:
        code = f"from bench.seed import make; print(make({people}, {in_group}))"
        seeded = json.loads(deployment.manage("shell", "--verbosity", "0", "--command", code).strip().splitlines()[-1])
        web = deployment.webs[0]
        assert deployment.postgres
        assert deployment.postgres.child
        connects = [json.dumps({"id": 1, "connect": {"token": token}}) for token in seeded["tokens"]]
        subscribe = '{"id":2,"subscribe":{"channel":"live:room"}}'
        key = {"X-API-Key": API_KEY}
        publication = {"channel": "live:api", "data": {"text": "x" * 200}}
        yield Peer(
            name=name,
            port=web.port,
            path="/connection/websocket",
            processes=Processes([web.pid]),
            fan_out=(connects, [_send(seeded["shared"])], '"message.sent"'),
            rpc=(connects, ['{"id":3,"rpc":{"method":"ping","data":{"text":"%s"}}}'], '"id":3'),
            durable=(connects, [_send(own) for own in seeded["own"]], '"id":3'),
            live=(
                [f"{connect}\t{subscribe}" for connect in connects],
                ['{"id":3,"publish":{"channel":"live:room","data":{"text":"%s"}}}'],
                '"pub":{',
            ),
            pairs=(connects, [_send(pair) for pair in seeded["pairs"]], '"id":3'),
            publish=("/api/publish", key, json.dumps(publication)),
            batch=("/api/batch", key, json.dumps({"commands": [{"publish": publication}] * BATCH})),
            connect=connects,
            database=Processes([deployment.postgres.child.pid]),
        )


def _send(conversation: str) -> str:
    data = {"conversation": conversation, "client_id": f"bench-{NUMBER}", "text": "%s"}
    return json.dumps({"id": 3, "rpc": {"method": "message.send", "data": data}}, separators=(",", ":"))


@contextmanager
def peer_go(program: Path) -> Iterator[Peer]:
    """A server on the Go library of the same protocol; nothing is stored and nobody is asked for a token."""
    connect = '{"id":1,"connect":{}}'
    subscribe = '{"id":2,"subscribe":{"channel":"room"}}'
    with _process("Go", [str(program), "-port", "{port}"]) as (port, processes):
        yield Peer(
            name="Go peer",
            port=port,
            path="/connection/websocket",
            processes=processes,
            fan_out=(
                [f"{connect}\t{subscribe}"],
                ['{"id":3,"publish":{"channel":"room","data":{"text":"%s"}}}'],
                '"pub":{',
            ),
            rpc=([connect], ['{"id":3,"rpc":{"method":"ping","data":{"text":"%s"}}}'], '"id":3'),
            publish=("/api/publish", {}, json.dumps({"channel": "api", "data": {"text": "x" * 200}})),
            connect=[f"{connect}\t{subscribe}"],
        )


@contextmanager
def tutorial(redis_url: str) -> Iterator[Peer]:
    """The Channels tutorial's consumer on plain Daphne."""
    command = [str(Path(sys.executable).with_name("daphne")), "-v", "0", "-p", "{port}", "bench.tutorial:application"]
    with _process("Daphne", command, {"REDIS_URL": redis_url}) as (port, processes):
        yield Peer(
            name="Channels tutorial",
            port=port,
            path="/room",
            processes=processes,
            fan_out=([], ['{"text":"%s"}'], '"text"'),
            rpc=([], ['{"echo":"%s"}'], '"echo"'),
        )


@contextmanager
def floor(program: Path) -> Iterator[Peer]:
    """A C loop that does nothing but ``send()``."""
    with _process("floor", [str(program), "{port}"]) as (port, processes):
        said: Said = ([], ['{"text":"%s"}'], '"text"')
        yield Peer(name="C floor", port=port, path="/", processes=processes, fan_out=said, rpc=said)


@contextmanager
def _process(
    name: str, command: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator[tuple[int, Processes]]:
    port = free_port()
    words = [word.format(port=port) for word in command]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, **(environment or {})}) as process:
        try:
            wait_until(lambda: accepts(port), name)
            yield port, Processes([process.pid])
        finally:
            process.terminate()
            process.wait(10)
