"""
``python -m bench.push``: pushes, from the message's commit to the provider, by one worker process.

The provider is a stand-in that answers after 100 ms. Nothing is coalesced: each push is of a conversation of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

import psutil
from redis import Redis
from websockets.asyncio.client import connect

from server.live_devices import MARKER
from tests.servers import session

from . import servers
from .goals import GROUP, LATENCY, RATE, judge
from .report import Report
from .servers import Roost, python
from .stand_in import Post, StandIn
from .tools import Processes, wait_until

PROVIDER_MS = 100
CONVERSATIONS = 4_000
DEVICES = 5_000
MESSAGES_PER_SECOND = 50
SENDING_SECONDS = 20
# Far beyond every goal: who waits for longer waits for ever.
PATIENCE_SECONDS = 180.0
LOOK_SECONDS = 0.05


def measure(report: Report) -> None:
    """Take all these figures."""
    print("\n## Push\n")
    with _pushing() as pushing:
        _from_commit(pushing, report)
        _many_conversations(pushing, report)
        _one_group(pushing, report)


@dataclass(frozen=True)
class _Pushing:
    """A deployment with one web process and one worker, and the provider that it knows."""

    server: Roost
    provider: StandIn
    sender: str
    token: str
    directs: list[str]
    group: str

    @property
    def worker(self) -> psutil.Process:
        return psutil.Process(self.server.deployment.workers[0].pid)

    def wait_for(self, count: int) -> list[Post]:
        """The first so many posts; they come one for each push unless something is amiss."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.provider.count() < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {self.provider.count()} of {count} pushes in {PATIENCE_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
        posts = self.provider.posts()
        if len({post.push_id for post in posts}) != count:
            raise RuntimeError(f"{len(posts)} posts for {count} pushes")
        return posts

    def wait_until_recorded(self) -> None:
        """Wait until the worker has nothing in hand."""
        with self.server.deployment.connect() as database:
            while database.execute(
                "SELECT 1 FROM messaging_pushcursor WHERE not_before IS NOT NULL LIMIT 1"
            ).fetchone():
                time.sleep(LOOK_SECONDS)

    def committed_at(self) -> dict[str, float]:
        """When each message's transaction began, by the message's id: a little before its commit."""
        with self.server.deployment.connect() as database:
            rows = database.execute(
                "SELECT message_id::text, extract(epoch FROM created_at) FROM messaging_notification"
            )
            return {str(message): float(str(at)) for message, at in rows}


@contextmanager
def _pushing() -> Iterator[_Pushing]:
    with servers.process("stand-in", python("bench.stand_in", "{port}", str(PROVIDER_MS))) as (port, _):
        provider = StandIn(port)
        settings = {
            "ROOST_PUSH_PROVIDER": "fcm",
            "ROOST_FCM_CREDENTIALS": provider.credentials,
            "ROOST_FCM_BASE_URL": provider.url,
        }
        with Roost(workers=1, **settings) as server:
            # As if it had been up for a minute: before that nobody knows who is connected, and all have a grace.
            with Redis.from_url(server.deployment.valkey.url) as redis:
                redis.set(MARKER, 0)
            made = server.make(f"make_pushed({CONVERSATIONS}, {DEVICES})")
            wait_until(lambda: "worker.started" in server.deployment.workers[0].log, "the worker")
            yield _Pushing(server, provider, **made)


def _from_commit(pushing: _Pushing, report: Report) -> None:
    """Messages at a steady pace, by the real way: websocket, writer, commit, doorbell, worker, provider."""
    count = MESSAGES_PER_SECOND * SENDING_SECONDS
    pushing.provider.forget()
    asyncio.run(_send(pushing, pushing.directs[:count], 1 / MESSAGES_PER_SECOND))
    posts = pushing.wait_for(count)
    began = pushing.committed_at()
    waited = sorted(1e3 * (post.at - began[post.message]) for post in posts)
    p50, p95, p99 = (waited[int(share * count)] for share in (0.5, 0.95, 0.99))
    report.put(LATENCY, "Roost", p95, f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms, most {waited[-1]:.0f} ms")
    pushing.wait_until_recorded()


async def _send(pushing: _Pushing, conversations: list[str], pace_seconds: float) -> None:
    """Send a message to each conversation, one after the other at this pace; return when all are answered."""
    url = f"ws://127.0.0.1:{pushing.server.port()}/connection/websocket"
    async with connect(url, compression=None) as phone:
        await phone.send(servers.connect(pushing.token))
        await phone.recv()
        answers = asyncio.create_task(_count_answers(phone, len(conversations)))
        began = time.monotonic()
        for number, conversation in enumerate(conversations):
            await asyncio.sleep(began + number * pace_seconds - time.monotonic())
            data = {"conversation": conversation, "client_id": f"push-{number}", "text": "x" * 200}
            await phone.send(json.dumps({"id": number + 2, "rpc": {"method": "message.send", "data": data}}))
        await answers


async def _count_answers(phone: object, count: int) -> None:
    while count:
        for line in (await phone.recv()).splitlines():  # type: ignore[attr-defined]
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"a message was refused: {reply}")
            count -= "rpc" in reply


def _many_conversations(pushing: _Pushing, report: Report) -> None:
    """A message in each of many conversations at once: what one worker gets through."""
    pushing.provider.forget()
    worker, database = Processes([pushing.worker.pid]), pushing.server.database
    cpu, database_cpu = worker.cpu(), database.cpu()
    pushing.server.make(f"write_in_directs({pushing.sender!r})")
    posts = pushing.wait_for(CONVERSATIONS)
    pushing.wait_until_recorded()
    cpu, database_cpu = worker.cpu() - cpu, database.cpu() - database_cpu
    rate = CONVERSATIONS / (posts[-1].at - posts[0].at)
    text = f"{rate:,.0f}/s, {cpu / CONVERSATIONS * 1e6:.0f} µs CPU of the worker each, "
    report.put(RATE, "Roost", rate, text + f"PostgreSQL {database_cpu / CONVERSATIONS * 1e6:.0f} µs")


def _one_group(pushing: _Pushing, report: Report) -> None:
    """One message that concerns thousands of phones: how long it takes, and what the worker needs meanwhile."""
    pushing.provider.forget()
    process = pushing.worker
    memory, threads = process.memory_info().rss, process.num_threads()
    with _watched(process) as most:
        asyncio.run(_send(pushing, [pushing.group], 0.0))
        posts = pushing.wait_for(DEVICES)
    seconds = posts[-1].at - pushing.committed_at()[posts[0].message]
    text = (
        f"{seconds:.1f} s; worker {memory / 1e6:.0f} MB and {threads} threads before, "
        f"at most {most.memory / 1e6:.0f} MB and {most.threads} threads meanwhile"
    )
    report.put(GROUP, "Roost", seconds, text, grown_mb=(most.memory - memory) / 1e6, threads=most.threads)
    pushing.wait_until_recorded()


@dataclass
class _Most:
    memory: int = 0
    threads: int = 0


@contextmanager
def _watched(process: psutil.Process) -> Iterator[_Most]:
    """The most memory and threads that a process has meanwhile."""
    most, is_over = _Most(), Event()

    def watch() -> None:
        while not is_over.wait(LOOK_SECONDS):
            most.memory = max(most.memory, process.memory_info().rss)
            most.threads = max(most.threads, process.num_threads())

    watching = Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        is_over.set()
        watching.join()


def main() -> None:
    """These lines alone, printed and judged."""
    session().start()
    report = Report(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        print(report.machine)
        measure(report)
    finally:
        session().stop()
    for goal, found, is_reached in judge(report):
        print(f"{'reached' if is_reached else 'MISSED':8} {goal}: {found}")


if __name__ == "__main__":
    main()
