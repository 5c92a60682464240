"""
``python -m bench.writer``: durable messages per second and per process, from 1, 100 and 1,000 concurrent senders.

Runs on the PostgreSQL server of ``DATABASE_URL``, in a database of its own that it makes and drops. The writer itself
refuses a server whose fsync, full_page_writes or synchronous_commit is off. Each sender waits for its commit before its
next message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import psycopg
import uvloop

if TYPE_CHECKING:
    from models.writer import Writer

SENDERS = (1, 100, 1000)
CONVERSATIONS = 1000
SECONDS = 5.0
WARM_UP_SECONDS = 1.0
TEXT = "x" * 200


@contextmanager
def own_database(url: str) -> Iterator[str]:
    """Make a database on this server, and drop it afterwards."""
    name = f"roost_bench_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate_and_seed() -> list[tuple[UUID, UUID]]:
    """Make the tables and groups of two; return one (conversation, sender) per group."""
    from django.core.management import call_command

    from models import channels, streams
    from models.conversation import Conversation, Member
    from models.ids import new_id

    call_command("migrate", verbosity=0)
    groups = Conversation.objects.bulk_create(Conversation(kind="group", member_count=2) for _ in range(CONVERSATIONS))
    streams.create(*(channels.chat(group.id) for group in groups))
    members = [Member(conversation=group, user_id=new_id()) for group in groups for _ in range(2)]
    Member.objects.bulk_create(members)
    return [(member.conversation_id, member.user_id) for member in members[::2]]


class Run:
    """A number of senders, each with its own conversation (until there are more senders than those)."""

    def __init__(self, writer: Writer, senders: list[tuple[UUID, UUID]], backend: psutil.Process | None) -> None:
        self.writer = writer
        self.senders = senders
        self.backend = backend
        self.latencies: list[float] = []

    async def measure(self, seconds: float) -> str:
        self.latencies.clear()
        own, backend = time.process_time(), self._backend_seconds()
        begun = time.perf_counter()
        await asyncio.gather(*(self._send_until(begun + seconds, *sender) for sender in self.senders))
        took, count = time.perf_counter() - begun, len(self.latencies)
        own, backend = time.process_time() - own, self._backend_seconds() - backend
        self.latencies.sort()
        p50, p99 = (1000 * self.latencies[int(share * count)] for share in (0.5, 0.99))
        return (
            f"{len(self.senders):5} senders  {count / took:8,.0f} messages/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   "
            f"CPU per message: own {1e6 * own / count:5.0f} µs, PostgreSQL backend {1e6 * backend / count:5.0f} µs"
        )

    async def _send_until(self, end: float, conversation: UUID, sender: UUID) -> None:
        from models.ids import new_id
        from models.writer import MessageDraft

        while (begun := time.perf_counter()) < end:
            await self.writer.send(
                MessageDraft(sender=sender, conversation=conversation, client_id=str(new_id()), text=TEXT)
            )
            self.latencies.append(time.perf_counter() - begun)

    def _backend_seconds(self) -> float:
        if self.backend is None:
            return float("nan")
        used = self.backend.cpu_times()
        return used.user + used.system


def backend_of(url: str) -> psutil.Process | None:
    """The server's process for the writer's connection, if the server runs on this machine."""
    with psycopg.connect(url) as db:
        row = db.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'roost writer' AND datname = current_database()"
        ).fetchone()
    try:
        process = psutil.Process(row[0]) if row else None
        return process if process and "postgres" in process.name() else None
    except psutil.NoSuchProcess:
        return None


async def measure_all(url: str, senders: list[tuple[UUID, UUID]]) -> None:
    from models.writer import Writer

    writer = Writer(url, on_committed=lambda publications: None)
    await writer.start()
    try:
        for count in SENDERS:
            run = Run(writer, senders[:count], backend_of(url))
            await run.measure(WARM_UP_SECONDS)
            print(await run.measure(SECONDS))
    finally:
        await writer.stop(10)


def main() -> None:
    with own_database(os.environ["DATABASE_URL"]) as url:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "server.settings"}
        import django
        from django.db import connection

        django.setup()
        senders = migrate_and_seed()
        connection.close()
        uvloop.run(measure_all(url, senders))


if __name__ == "__main__":
    main()
