"""What shows only with many connections or several processes: idle cost, patience under load, the relay."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import servers
from .report import Report
from .said import ANSWERED, Said
from .servers import Roost
from .tools import Held, LoadClient, Processes, Run

IDLE = 10_000
# A ping goes to everyone within this time.
PING_SECONDS = 25.0
FURTHER = 20
LISTENERS = 2_000
CALLERS = 20
PATH = "/connection/websocket"
ECHO = {"ECHO": "1"}
PROCESSES = (1, 2, 4)
IN_ROOM = 500
RELAYED = 2_000


def measure(client: LoadClient, peer_go: Path | None, report: Report) -> None:
    """Take all these figures."""
    print("\n## Many connections, several processes\n")
    _idle(client, peer_go, report)
    _patience(client, report)
    _processes(client, report)
    _relay(client, report)


# --- idle


def _idle(client: LoadClient, peer_go: Path | None, report: Report) -> None:
    one = _hold_ours(client, further=0)
    work = "10,000 idle connections with one subscription"
    text = f"{one.memory_kb:.1f} KB each, {one.idle_cpu:.1%} of a core for pings"
    report.put(work, "Roost", one.memory_kb, text, core=one.idle_cpu)
    more = _hold_ours(client, further=FURTHER)
    each = (more.memory_kb - one.memory_kb) * 1024 / FURTHER
    report.put("each further subscription of 10,000", "Roost", each, f"{each:.0f} bytes")
    if peer_go:
        with servers.peer_go(peer_go, 0) as peer:
            assert peer.connect
            held = _hold(client, peer.processes, peer.connect, peer.port)
        text = f"{held.memory_kb:.1f} KB each, {held.idle_cpu:.1%} of a core for pings"
        report.put(work, "Go peer", held.memory_kb, text)


def _hold_ours(client: LoadClient, further: int) -> Held:
    with Roost() as server:
        tokens = server.make(f"make_tokens({IDLE})")["tokens"]
        more = "".join(f"\t{_subscribe(2 + n, f'live:{n}')}" for n in range(further))
        said = Said([servers.connect(token) + more for token in tokens], [], "")
        return _hold(client, server.processes(), said, server.port())


def _hold(client: LoadClient, processes: Processes, said: Said, port: int) -> Held:
    return client.hold(
        processes,
        said,
        port=port,
        path=PATH,
        connections=IDLE,
        idle_seconds=PING_SECONDS,
        environment={"STORM": "1000"},
    )


# --- rpc while others listen


def _patience(client: LoadClient, report: Report) -> None:
    with Roost() as server, ThreadPoolExecutor(1) as beside:
        tokens = server.make(f"make_tokens({LISTENERS + CALLERS})")["tokens"]
        connects = [servers.connect(token) for token in tokens]
        room = _room(connects[:LISTENERS], "live:room")
        calls = Said(connects[LISTENERS:], ['{"id":3,"rpc":{"method":"ping","data":{"text":"%s"}}}'], ANSWERED)

        def run(said: Said, **options: Any) -> Run:
            return client.run(server.processes(), said, port=server.port(), path=PATH, **options)

        # Fifty a second for twelve seconds; the calls begin and end in between.
        listening = beside.submit(
            run, room, connections=LISTENERS, sends=600, in_flight=600, environment={"EVERY": "20"}
        )
        calling = run(calls, connections=CALLERS, sends=60, environment={**ECHO, "EVERY": "100"})
        heard = listening.result()
    rate = heard.count / heard.seconds
    text = f"p50 {calling.p50_ms:.1f} ms, p99 {calling.p99_ms:.1f} ms, while {rate:,.0f} deliveries/s arrive"
    report.put("rpc while 2,000 get 50 publications a second", "Roost", calling.p99_ms, text)


# --- several processes


def _processes(client: LoadClient, report: Report) -> None:
    for webs in PROCESSES:
        runs = _rooms(client, webs)
        rate = sum(run.count for run in runs) / max(run.seconds for run in runs)
        cpu = sum(run.cpu for run in runs) / sum(run.count for run in runs) * 1e6
        text = f"{rate:,.0f} deliveries/s, {cpu:.2f} µs CPU each"
        report.put(f"a room of 500 on each of {webs} processes, 64 in flight", "Roost", rate, text)


def _rooms(client: LoadClient, webs: int) -> list[Run]:
    """A room on each process, all at once."""
    with Roost(webs=webs) as server, ThreadPoolExecutor(webs) as at_once:
        tokens = server.make(f"make_tokens({IN_ROOM * webs})")["tokens"]

        def run(web: int) -> Run:
            room = _room([servers.connect(token) for token in tokens[web::webs]], f"live:room-{web}")
            return client.run(
                server.processes(web),
                room,
                port=server.port(web),
                path=PATH,
                connections=IN_ROOM,
                sends=2000,
                in_flight=64,
            )

        return list(at_once.map(run, range(webs)))


def _relay(client: LoadClient, report: Report) -> None:
    """What a publication costs the process that has it, and another that hears of it."""
    alone, _ = _relayed(client, webs=1, listens=False)
    sender, idle = _relayed(client, webs=2, listens=False)
    _, listener = _relayed(client, webs=2, listens=True)
    text = f"sender {sender:.0f} µs (alone {alone:.0f}), other process {idle:.0f} µs, with a listener {listener:.0f} µs"
    report.put("relay to another process, for each message", "Roost", sender - alone, text)


def _relayed(client: LoadClient, *, webs: int, listens: bool) -> tuple[float, float]:
    """CPU in µs for each message of the first process, and of the last."""
    with Roost(webs=webs) as server, ThreadPoolExecutor(1) as beside:
        tokens = server.make("make_tokens(2)")["tokens"]
        sending = _room([servers.connect(tokens[0])], "live:room")
        hearing = _room([servers.connect(tokens[1])], "live:room")
        held = None
        if listens:
            held = beside.submit(
                client.hold, server.processes(1), hearing, port=server.port(1), path=PATH, connections=1, idle_seconds=5
            )
        other = server.processes(webs - 1)
        before = other.cpu()
        run = client.run(server.processes(0), sending, port=server.port(), path=PATH, connections=1, sends=RELAYED)
        heard = (other.cpu() - before) / run.count * 1e6
        if held:
            held.result()
    return run.cpu_us, heard


def _room(connects: list[str], channel: str) -> Said:
    publish = json.dumps({"id": 3, "publish": {"channel": channel, "data": {"text": "%s"}}}, separators=(",", ":"))
    return Said([f"{connect}\t{_subscribe(2, channel)}" for connect in connects], [publish], '"pub":{')


def _subscribe(id: int, channel: str) -> str:
    return json.dumps({"id": id, "subscribe": {"channel": channel}}, separators=(",", ":"))
