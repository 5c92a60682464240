"""
``python -m bench``: every figure from one run on one machine, as a table.

CPU is user plus system time of all processes of a server (of PostgreSQL in a column of its own). The machine is usually
noisy: compare figures within a run, never across runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.servers import session

from . import servers
from .servers import Peer, Said
from .tools import Held, Programs, Run, hold, run_load

IN_GROUP = 500
# Whatever else the machine does only adds to what a server's work costs: the best of some runs is nearest to the truth.
ROUNDS = 3
IDLE = 2000
SENDERS = (1, 100, 1000)


def everyone(programs: Programs) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Peer]]]]:
    """All servers by name, each to be started when its turn comes, so that none has to share the machine."""
    yield "Roost (picows)", lambda: servers.roost("Roost (picows)", IDLE, IN_GROUP)
    yield "Roost (Daphne)", lambda: servers.roost("Roost (Daphne)", IDLE, IN_GROUP, lane="daphne")
    if go := programs.peer_go:
        yield "Go peer", lambda: servers.peer_go(go)
    else:
        print("(no Go on this machine: the Go peer is left out)")
    yield "Channels tutorial", lambda: servers.tutorial(os.environ["REDIS_URL"])
    yield "C floor", lambda: servers.floor(programs.floor)


def load(programs: Programs, peer: Peer, said: Said, **options: Any) -> Run:
    init, send, mark = said
    return run_load(
        programs.load,
        peer.processes,
        port=peer.port,
        path=peer.path,
        init=init,
        send=send,
        mark=mark,
        **options,
    )


def best(measure_once: Callable[[], Run]) -> Run:
    """Measure several times; the run that cost least."""
    return min((measure_once() for _ in range(ROUNDS)), key=lambda run: run.cpu_us)


def measure(programs: Programs, peer: Peer) -> None:
    """Print all figures of one server."""
    print(f"\n## {peer.name}\n")
    one = best(lambda: load(programs, peer, peer.fan_out, connections=IN_GROUP, sends=200))
    print(f"fan-out to {IN_GROUP}, one at a time: {one.cpu_us:6.2f} µs per delivery, p99 {one.p99_ms:.1f} ms")
    slow = peer.name == "Channels tutorial"
    if not slow:
        many = best(lambda: load(programs, peer, peer.fan_out, connections=IN_GROUP, sends=800, in_flight=64))
        print(f"fan-out to {IN_GROUP}, 64 in flight:  {many.cpu_us:6.2f} µs per delivery")
    if peer.name != "C floor":
        sends = 40 if slow else 200
        rpc = best(lambda: load(programs, peer, peer.rpc, connections=IN_GROUP, sends=sends, echo=True))
        print(
            f"rpc answered, {IN_GROUP} connections:  {rpc.cpu_us:6.1f} µs each, "
            f"{rpc.rate:,.0f}/s, p99 {rpc.p99_ms:.1f} ms"
        )
    held: Held = hold(
        programs.load, peer.processes, port=peer.port, path=peer.path, connections=IDLE, init=peer.connect
    )
    print(f"connect, {IDLE} connections:        {held.cpu_ms:6.2f} ms CPU, {held.memory_kb:.1f} KB each")
    if peer.durable:
        for senders in SENDERS:
            sends = {1: 1000, 100: 300, 1000: 30}[senders]
            run = load(
                programs, peer, peer.durable, connections=senders, sends=sends, echo=True, database=peer.database
            )
            print(
                f"durable sends, {senders:4} senders:     {run.rate:7,.0f}/s, p50 {run.p50_ms:.1f} ms, "
                f"p99 {run.p99_ms:.1f} ms, {run.cpu_us:.0f} µs CPU, PostgreSQL "
                f"{run.database_cpu / run.count * 1e6:.0f} µs"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure only servers whose name contains this")
    only = parser.parse_args().only
    session().start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            programs = Programs(Path(folder))
            print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
            for name, start in everyone(programs):
                if only in name:
                    with start() as peer:
                        measure(programs, peer)
    finally:
        session().stop()


if __name__ == "__main__":
    main()
