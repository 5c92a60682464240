"""
``python -m bench``: every figure from one run on one machine, as a table.

CPU is user plus system time of all processes of a server (of PostgreSQL in a column of its own). The machine is usually
noisy: compare figures within a run, never across runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.servers import session

from . import many, push, servers, soak
from .goals import judge
from .http_load import post
from .report import Report
from .said import Said
from .servers import BATCH, PEER_NODE, Peer, Request
from .tools import LoadClient, Programs, Run

IN_GROUP = 500
EVERYONE = 2000
# Whatever else the machine does only adds to what a server's work costs: the best of some runs is nearest to the truth.
ROUNDS = 3
SENDERS = {1: 1000, 100: 300, 1000: 30}
ECHO = {"ECHO": "1"}

Start = Callable[[], AbstractContextManager[Peer]]


def everyone(programs: Programs) -> Iterator[tuple[str, Start]]:
    """All servers by name, each to be started when its turn comes, so that none has to share the machine."""
    yield "Roost", lambda: servers.roost("Roost", EVERYONE, IN_GROUP)
    yield "Roost, Protobuf", lambda: servers.roost_protobuf("Roost, Protobuf", EVERYONE, IN_GROUP)
    yield "Roost, deflate", lambda: servers.roost_deflate("Roost, deflate", EVERYONE, IN_GROUP)
    yield "Roost on Daphne", lambda: servers.roost("Roost on Daphne", EVERYONE, IN_GROUP, lane="daphne")
    if go := programs.peer_go:
        yield "Go peer", lambda: servers.peer_go(go, EVERYONE)
    else:
        print("(no Go on this machine: the Go peer is left out)")
    if shutil.which("node") and (PEER_NODE / "node_modules").exists():
        yield "Node ws", servers.node_ws
        yield "Socket.IO", servers.socket_io
    else:
        print("(no Node on this machine: ws and Socket.IO are left out)")
    yield "Channels on Daphne", lambda: servers.tutorial(os.environ["REDIS_URL"], "Daphne")
    yield "Channels on uvicorn", lambda: servers.tutorial(os.environ["REDIS_URL"], "uvicorn")
    yield "C floor", lambda: servers.floor(programs.floor)


class Measuring:
    """Takes the figures of one server."""

    def __init__(self, client: LoadClient, peer: Peer, report: Report) -> None:
        self._client = client
        self._peer = peer
        self._report = report
        self._is_slow = peer.name.startswith("Channels")
        self._is_floor = peer.name == "C floor"

    def all(self) -> None:
        peer = self._peer
        print(f"\n## {peer.name}\n")
        self._fan_out()
        if not self._is_floor:
            self._rpc()
        self._http("POST publish, 32 connections", peer.publish, requests=8_000, publications=1)
        self._http(f"POST batch of {BATCH} publications", peer.batch, requests=640, publications=BATCH)
        if peer.connect:
            self._connect(peer.connect)
        if peer.returning:
            self._return(peer.returning)
        if peer.durable:
            for senders, sends in SENDERS.items():
                self._durable(f"durable sends, {senders} at once", peer.durable, connections=senders, sends=sends)
        if peer.pairs:
            work = "1,000 people in 500 direct conversations, all send"
            self._durable(work, peer.pairs, connections=1000, sends=30)

    def _run(self, said: Said, **options: Any) -> Run:
        peer = self._peer
        environment = {**peer.client, **options.pop("environment", {})}
        return self._client.run(
            peer.processes, said, port=peer.port, path=peer.path, environment=environment, **options
        )

    def _best(self, measure_once: Callable[[], Run], rounds: int = ROUNDS) -> Run:
        return min((measure_once() for _ in range(rounds)), key=lambda run: run.cpu_us)

    def _put(self, work: str, number: float, text: str, **others: float) -> None:
        self._report.put(work, self._peer.name, number, text, **others)

    def _fan_out(self) -> None:
        peer, few = self._peer, 10 if self._is_slow else 1

        def line(work: str, said: Said, connections: int, sends: int, in_flight: int = 1) -> None:
            run = self._best(lambda: self._run(said, connections=connections, sends=sends, in_flight=in_flight))
            self._put(work, run.cpu_us, f"{run.cpu_us:.2f} µs per delivery, p99 {run.p99_ms:.1f} ms")

        line("fan-out to 500, one at a time", peer.fan_out, IN_GROUP, 200 // few)
        line("fan-out to 2,000, one at a time", peer.to_everyone(), EVERYONE, 100 // few)
        if not self._is_slow:
            line("fan-out to 500, 64 in flight", peer.fan_out, IN_GROUP, 800, 64)
        if peer.live:
            line("fan-out to 500 without history, one at a time", peer.live, IN_GROUP, 200)
            line("fan-out to 2,000 without history, one at a time", peer.live, EVERYONE, 100)
            line("fan-out to 500 without history, 64 in flight", peer.live, IN_GROUP, 800, 64)

    def _rpc(self) -> None:
        sends = 40 if self._is_slow else 200
        run = self._best(lambda: self._run(self._peer.rpc, connections=IN_GROUP, sends=sends, environment=ECHO))
        text = f"{run.cpu_us:.1f} µs each, {run.rate:,.0f}/s, p99 {run.p99_ms:.1f} ms"
        self._put("rpc answered, 500 connections", run.cpu_us, text)

    def _http(self, work: str, request: Request | None, *, requests: int, publications: int) -> None:
        if request is None:
            return
        peer = self._peer
        posted = min(
            (post(peer.processes, peer.port, *request, requests=requests) for _ in range(ROUNDS)),
            key=lambda posted: posted.cpu_us,
        )
        each = posted.cpu_us / publications
        self._put(work, each, f"{each:.1f} µs for each publication")

    def _connect(self, said: Said) -> None:
        peer = self._peer
        held = self._client.hold(
            peer.processes, said, port=peer.port, path=peer.path, connections=EVERYONE, environment=peer.client
        )
        text = f"{held.cpu_ms:.2f} ms CPU, {held.memory_kb:.1f} KB each"
        self._put(f"connect, {EVERYONE:,} one after another", held.cpu_ms, text)

    def _return(self, said: Said) -> None:
        """Clients with twenty positions come back: to nothing new, then to a message missed in each."""
        peer = self._peer
        port, processes = peer.keeping or (peer.port, peer.processes)

        def storm() -> Run:
            environment = {**peer.client, "STORM": str(EVERYONE)}
            return self._client.run(
                processes, said, port=port, path=peer.path, connections=EVERYONE, environment=environment
            )

        run = self._best(storm)
        text = f"{run.cpu_us / 1e3:.2f} ms CPU each, all live after {run.seconds:.1f} s"
        self._put("2,000 come back at once, 20 positions each", run.cpu_us / 1e3, text)
        if isinstance(peer.missed, Said):
            self._run(peer.missed, connections=len(peer.missed.init), environment=ECHO)
        for request in [] if isinstance(peer.missed, Said) else peer.missed or ():
            post(processes, port, *request, requests=1, connections=1)
        run = self._best(storm)
        text = f"{run.cpu_us / 1e3:.2f} ms CPU each, all live after {run.seconds:.1f} s"
        self._put("the same, a message missed in each", run.cpu_us / 1e3, text, seconds=run.seconds)

    def _durable(self, work: str, said: Said, *, connections: int, sends: int) -> None:
        run = max(
            (
                self._run(said, connections=connections, sends=sends, environment=ECHO, database=self._peer.database)
                for _ in range(ROUNDS)
            ),
            key=lambda run: run.rate,
        )
        text = (
            f"{run.rate:,.0f}/s, p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms, {run.cpu_us:.0f} µs CPU, "
            f"PostgreSQL {run.database_cpu / run.count * 1e6:.0f} µs"
        )
        self._put(work, run.rate, text, p50_ms=run.p50_ms, p99_ms=run.p99_ms)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure only servers whose name begins with this")
    parser.add_argument("--soak", type=float, default=20, metavar="MINUTES", help="how long the soak takes; 0: none")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    options = parser.parse_args()
    session().start()
    report = Report(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            programs = Programs(Path(folder))
            client = LoadClient(programs.load)
            print(report.machine)
            for name, start in everyone(programs):
                if name.startswith(options.only):
                    with start() as peer:
                        Measuring(client, peer, report).all()
            if not options.only:
                many.measure(client, programs.peer_go, report)
                push.measure(report)
                if options.soak:
                    soak.measure(client, report, options.soak * 60)
    finally:
        session().stop()
    judged = [f"| {goal} | {found} | {'yes' if is_reached else 'no'} |" for goal, found, is_reached in judge(report)]
    goals = ["| goal | found | reached |", "|---|---|---|", *judged]
    print("\n## Goals\n", *goals, sep="\n")
    if options.write:
        report.write(goals)


if __name__ == "__main__":
    main()
