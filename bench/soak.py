"""
Clients come and go for a long time, in every way there is, and nothing may be left of them.

After each round everyone has left, so that what a process still holds then must not grow from round to round. The first
quarter does not count: caches fill, and the allocator finds its size.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from websockets.sync.client import connect

from tests.servers import session

from . import servers
from .report import Report
from .said import ANSWERED, Said
from .servers import Roost
from .tools import LoadClient, Programs

PEOPLE = 600
PATH = "/connection/websocket"
ECHO = {"ECHO": "1"}
# Presence entries and live devices of those who have left go within a moment.
SETTLE_SECONDS = 2.0
# What a look at everything may differ by, from one quarter's average to another's.
TASKS = 3
KEYS = 5
MEMORY = 0.03
NAMESPACES = {
    "live": {
        "allow_subscribe_for_client": True,
        "allow_publish_for_client": True,
        "presence": True,
        "join_leave": True,
    },
    "kept": {
        "allow_subscribe_for_client": True,
        "allow_publish_for_client": True,
        "history_size": 50,
        "history_ttl": "300s",
        "force_recovery": True,
    },
}


@dataclass(frozen=True)
class Look:
    """What a process held when everyone had left."""

    memory: float
    tasks: int
    objects: int
    clients: int
    channels: int
    known: int
    keys: int


def measure(client: LoadClient, report: Report, seconds: float) -> None:
    """Let clients come and go for so long, and say whether anything grew."""
    print(f"\n## Soak, {seconds / 60:.0f} minutes\n")
    settings = {"ROOST_NAMESPACES": json.dumps(NAMESPACES), "ROOST_EXTENSIONS": "bench.watching"}
    with Roost(**settings) as server:
        seeded = server.make(f"make({PEOPLE}, 200)")
        looks: list[Look] = []
        chance = random.Random(1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _round(client, server, seeded, chance)
            time.sleep(SETTLE_SECONDS)
            looks.append(_look(server, seeded["tokens"][0]))
    text, grew = judge(looks)
    report.put(f"{seconds / 60:.0f} minutes of clients coming and going", "Roost", len(looks), text)
    if grew:
        raise RuntimeError(f"the soak found growth: {', '.join(grew)}")


def judge(looks: list[Look]) -> tuple[str, list[str]]:
    """Compare the second quarter with the last: what it was and became, and what has grown."""
    quarter = max(len(looks) // 4, 1)
    early, late = looks[quarter : 2 * quarter] or looks[:quarter], looks[-quarter:]

    def average(part: list[Look], name: str) -> float:
        return sum(getattr(look, name) for look in part) / len(part)

    bounds: dict[str, float] = {"tasks": TASKS, "clients": 0, "channels": 0, "known": 0, "keys": KEYS}
    bounds["memory"] = MEMORY * average(early, "memory")
    grew = [name for name, bound in bounds.items() if average(late, name) > average(early, name) + bound]
    parts = [f"memory {average(early, 'memory') / 1e6:.1f} to {average(late, 'memory') / 1e6:.1f} MB"] + [
        f"{name} {average(early, name):.0f} to {average(late, name):.0f}"
        for name in ("objects", "tasks", "clients", "channels", "known", "keys")
    ]
    return f"{len(looks)} rounds: {', '.join(parts)}", grew


def _round(client: LoadClient, server: Roost, seeded: dict[str, Any], chance: random.Random) -> None:
    """Some come, hear and say something, and are gone without a word."""
    processes, port = server.processes(), server.port()
    connects = [servers.connect(token) for token in chance.sample(seeded["tokens"], chance.randint(50, PEOPLE))]
    rooms = [f"{chance.choice(['live', 'kept'])}:{chance.randint(1, 1000)}" for _ in range(3)]
    subscribes = "".join(f'\t{{"id":{n + 10},"subscribe":{{"channel":"{room}"}}}}' for n, room in enumerate(rooms))
    init = [connect + subscribes for connect in connects]
    publish = f'{{"id":3,"publish":{{"channel":"{rooms[0]}","data":{{"text":"%s"}}}}}}'
    own = [servers.send(id) for id in seeded["own"][:50]]
    first = [servers.connect(token) for token in seeded["tokens"][:50]]
    storm = {"STORM": str(len(init)), "HOLD": str(chance.uniform(0.5, 3))}
    client.hold(processes, Said(init, [], ""), port=port, path=PATH, connections=len(init), environment=storm)
    client.run(
        processes,
        Said(init, [publish], ANSWERED),
        port=port,
        path=PATH,
        connections=min(len(init), 100),
        sends=chance.randint(1, 20),
        environment=ECHO,
    )
    client.run(processes, Said(first, own, ANSWERED), port=port, path=PATH, connections=50, sends=20, environment=ECHO)


def _look(server: Roost, token: str) -> Look:
    url = f"ws://127.0.0.1:{server.port()}{PATH}"
    with connect(url) as socket:
        socket.send(servers.connect(token))
        socket.recv()
        socket.send('{"id":2,"rpc":{"method":"bench.watch","data":{}}}')
        reply = json.loads(socket.recv())
        while reply.get("id") != 2:
            reply = json.loads(socket.recv())
    with Redis.from_url(server.deployment.valkey.url) as redis:
        keys = redis.dbsize()
    return Look(**reply["rpc"]["data"], keys=keys)


def main() -> None:
    """``python -m bench.soak MINUTES``: the soak alone."""
    session().start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(LoadClient(Programs(Path(folder)).load), Report("soak"), 60 * float(sys.argv[1]))
    finally:
        session().stop()


if __name__ == "__main__":
    main()
