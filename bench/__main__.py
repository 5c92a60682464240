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
from .http_load import Posted, post
from .report import Report
from .servers import BATCH, Peer, Said
from .tools import Programs, Run, hold, run_load

IN_GROUP = 500
# Whatever else the machine does only adds to what a server's work costs: the best of some runs is nearest to the truth.
ROUNDS = 3
IDLE = 2000
SENDERS = (1, 100, 1000)
BATCH_WORK = f"POST batch of {BATCH} publications, each"


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


def measure(programs: Programs, peer: Peer, report: Report) -> None:
    """Take all figures of one server."""
    print(f"\n## {peer.name}\n")
    slow = peer.name == "Channels tutorial"

    def fan_out(work: str, said: Said, **options: Any) -> None:
        run = best(lambda: load(programs, peer, said, connections=IN_GROUP, **options))
        report.put(work, peer.name, run.cpu_us, f"{run.cpu_us:.2f} µs per delivery, p99 {run.p99_ms:.1f} ms")

    fan_out(f"fan-out to {IN_GROUP}, one at a time", peer.fan_out, sends=200)
    if not slow:
        fan_out(f"fan-out to {IN_GROUP}, 64 in flight", peer.fan_out, sends=800, in_flight=64)
    if peer.live:
        fan_out(f"the same without history, one at a time (to {IN_GROUP})", peer.live, sends=200)
        fan_out(f"the same without history, 64 in flight (to {IN_GROUP})", peer.live, sends=800, in_flight=64)
    if peer.name != "C floor":
        sends = 40 if slow else 200
        rpc = best(lambda: load(programs, peer, peer.rpc, connections=IN_GROUP, sends=sends, echo=True))
        text = f"{rpc.cpu_us:.1f} µs each, {rpc.rate:,.0f}/s, p99 {rpc.p99_ms:.1f} ms"
        report.put(f"rpc answered, {IN_GROUP} connections", peer.name, rpc.cpu_us, text)
    for work, said, count in (("POST publish, 32 connections", peer.publish, 8_000), (BATCH_WORK, peer.batch, 640)):
        if said:
            posted = min((post(peer.processes, peer.port, *said, requests=count) for _ in range(ROUNDS)), key=_cost)
            each = posted.cpu_us / (BATCH if said is peer.batch else 1)
            report.put(work, peer.name, each, f"{each:.1f} µs each")
    held = hold(programs.load, peer.processes, port=peer.port, path=peer.path, connections=IDLE, init=peer.connect)
    text = f"{held.cpu_ms:.2f} ms CPU, {held.memory_kb:.1f} KB each"
    report.put(f"connect, {IDLE} connections", peer.name, held.cpu_ms, text)
    if peer.durable:
        for senders in SENDERS:
            sends = {1: 1000, 100: 300, 1000: 30}[senders]
            work = f"durable sends, {senders} at once"
            _durable(work, programs, peer, peer.durable, report, connections=senders, sends=sends)
    if peer.pairs:
        work = "1,000 people in 500 direct conversations, all send"
        _durable(work, programs, peer, peer.pairs, report, connections=1000, sends=30)


def _durable(work: str, programs: Programs, peer: Peer, said: Said, report: Report, **options: Any) -> None:
    run = load(programs, peer, said, echo=True, database=peer.database, **options)
    text = (
        f"{run.rate:,.0f}/s, p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms, {run.cpu_us:.0f} µs CPU, "
        f"PostgreSQL {run.database_cpu / run.count * 1e6:.0f} µs"
    )
    report.put(work, peer.name, run.rate, text)


def _cost(posted: Posted) -> float:
    return posted.cpu_us


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure only servers whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    options = parser.parse_args()
    session().start()
    report = Report(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            programs = Programs(Path(folder))
            print(report.machine)
            for name, start in everyone(programs):
                if options.only in name:
                    with start() as peer:
                        measure(programs, peer, report)
    finally:
        session().stop()
    if options.write:
        report.write()


if __name__ == "__main__":
    main()
