"""
The writer's own connection to PostgreSQL: settings, statements, one batch in one round trip.

It knows nothing of queues and callers; ``writer`` decides what is run, and again. The statements are in ``batch``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

import psycopg

from . import batch, streams
from .drafts import PreparedMessage, PreparedPublication, StoredMessage
from .errors import DomainError
from .events import Publication

Prepared = PreparedMessage | PreparedPublication
Answer = StoredMessage | Publication | DomainError

# A batch that takes longer than its statements may has lost its network: its socket is cut, so that the wait ends.
CUT_SECONDS = 8.0
CONNECT_SECONDS = 3
# Statements are planned anew this often, because a plan that was made while the tables were empty lives for ever.
KEEP_HOUSE_SECONDS = 30.0
# What tells of a commit whose answer was lost is needed for seconds.
KEEP_BATCHES_SECONDS = 600

SETTINGS = {
    "application_name": "roost writer",
    "statement_timeout": "3s",
    # Streams are held for milliseconds; whoever holds one for longer delays only its own conversation.
    "lock_timeout": "500ms",
    "idle_in_transaction_session_timeout": "5s",
    "timezone": "UTC",
    "jit": "off",
    # Each join of these statements is a handful of look-ups in an index, whatever stale or missing statistics say.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
}
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


class UnsafeDatabase(Exception):
    """PostgreSQL would acknowledge what a crash can lose."""


class Result:
    """What became of a batch: an answer for each draft, None where it has to wait, and what to tell the world."""

    def __init__(self, size: int) -> None:
        self.answers: list[Answer | None] = [None] * size
        self.publications: list[Publication] = []

    def put(self, place: int, answer: Answer, publication: Publication | None) -> None:
        self.answers[place] = answer
        if publication is not None:
            self.publications.append(publication)


class WriterConnection:
    """One connection, used by one task."""

    def __init__(self, db: psycopg.AsyncConnection[Any]) -> None:
        self._db = db
        self._lock, self._append, self._publish = (db.cursor(binary=True) for _ in range(3))
        self._keep_house_at = 0.0

    @classmethod
    async def open(cls, dsn: str, *, require_durable: bool) -> Self:
        """
        Connect, and make sure from this very session that a commit is a promise.

        Raises:
            UnsafeDatabase: it is not.
        """
        db = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, prepare_threshold=0, connect_timeout=CONNECT_SECONDS
        )
        try:
            await db.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS t (name, value)",
                [list(SETTINGS), list(SETTINGS.values())],
            )
            cursor = await db.execute("SELECT current_setting(name) FROM unnest(%s::text[]) AS name", [list(DURABLE)])
            off = [name for name, (value,) in zip(DURABLE, await cursor.fetchall(), strict=True) if value == "off"]
            if off and require_durable:
                raise UnsafeDatabase(f"PostgreSQL has {', '.join(off)} off: a crash would lose acknowledged messages.")
        except BaseException:
            await db.close()
            raise
        return cls(db)

    async def close(self) -> None:
        await self._db.close()

    def cut(self) -> None:
        """End whatever is waiting for the server, also when the network swallows everything."""
        if not self._db.closed:
            with socket.socket(fileno=os.dup(self._db.fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    async def store(self, batch_id: UUID, drafts: Sequence[Prepared]) -> Result:
        """
        Store a batch: one transaction, one round trip.

        Without BEGIN and COMMIT: what a pipeline sends before its sync is one transaction, and two statements less.
        """
        work = _Work(drafts)
        with self._bounded():
            await self._keep_house()
            async with self._db.pipeline():
                await self._create_streams(drafts)
                await self._lock.execute(batch.LOCK, (batch_id, _streams(drafts)))
                await self._run(work)
            return await self._result(work, await self._locked())

    async def store_free(self, batch_id: UUID, drafts: Sequence[Prepared]) -> Result:
        """Store those drafts of a batch whose streams nobody holds right now; the others get no answer."""
        with self._bounded():
            async with self._db.transaction():
                await self._create_streams(drafts)
                await self._lock.execute(batch.LOCK_FREE, (batch_id, _streams(drafts)))
                cursor = await self._db.execute(batch.EXISTING, [_streams(drafts)], binary=True)
                locked = await self._locked()
                work = _Work(drafts, {row[0] for row in await cursor.fetchall()} - locked.keys())
                await self._run(work)
            return await self._result(work, locked)

    async def recognise(self, batch_id: UUID, drafts: Sequence[Prepared]) -> Result:
        """Answer what a batch stored whose own answer was lost; what it refused gets no answer here."""
        result = Result(len(drafts))
        with self._bounded():
            cursor = await self._db.execute(batch.STORED_BY_BATCH, [batch_id], binary=True)
            rows = {row[0]: row[1:] for row in await cursor.fetchall()}
        for place, draft in enumerate(drafts):
            if draft.id in rows:
                channel, epoch, offset, created_at, mentions = rows[draft.id]
                stream = batch.Locked(draft.stream, channel, epoch)
                if isinstance(draft, PreparedMessage):
                    result.put(place, *batch.stored_message(draft, stream, offset, mentions or [], created_at))
                else:
                    publication = batch.stored_publication(draft, stream, offset)
                    result.put(place, publication, publication)
        return result

    async def _create_streams(self, drafts: Sequence[Prepared]) -> None:
        # Conversations and persons have their streams already; an operator's channel begins with its first publication.
        names = [draft.draft.channel for draft in drafts if isinstance(draft, PreparedPublication)]
        if names:
            await self._db.execute(streams.CREATE, streams.creation(names))

    async def _run(self, work: _Work) -> None:
        if work.messages:
            await self._append.execute(batch.APPEND, batch.message_columns(work.messages))
        if work.publications:
            await self._publish.execute(batch.PUBLISH, batch.publication_columns(work.publications))

    async def _locked(self) -> dict[UUID, batch.Locked]:
        return {row[0]: batch.Locked(*row) for row in await self._lock.fetchall()}

    async def _result(self, work: _Work, locked: dict[UUID, batch.Locked]) -> Result:
        result = Result(work.size)
        if work.messages:
            for row in await self._append.fetchall():
                verdict = batch.Verdict(*row)
                message = work.messages[verdict.n - 1]
                result.put(work.message_places[verdict.n - 1], *batch.judged_message(message, verdict, locked))
        if work.publications:
            for n, offset, is_repeated in await self._publish.fetchall():
                draft = work.publications[n - 1]
                publication = batch.stored_publication(draft, locked[draft.stream], offset)
                result.put(work.publication_places[n - 1], publication, None if is_repeated else publication)
        return result

    async def _keep_house(self) -> None:
        now = time.monotonic()
        if now < self._keep_house_at:
            return
        self._keep_house_at = now + KEEP_HOUSE_SECONDS
        await self._db.execute("DISCARD PLANS")
        # The ids begin with the time they were made at.
        oldest = UUID(int=int((time.time() - KEEP_BATCHES_SECONDS) * 1000) << 80)
        await self._db.execute("DELETE FROM messaging_writerbatch WHERE id < %s", [oldest])

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        timer = asyncio.get_running_loop().call_later(CUT_SECONDS, self.cut)
        try:
            yield
        finally:
            timer.cancel()


class _Work:
    """A batch by kind of draft, each with its place in the batch; what is ``held`` by others is left out."""

    def __init__(self, drafts: Sequence[Prepared], held: Set[UUID] = frozenset()) -> None:
        self.size = len(drafts)
        self.messages: list[PreparedMessage] = []
        self.message_places: list[int] = []
        self.publications: list[PreparedPublication] = []
        self.publication_places: list[int] = []
        for place, draft in enumerate(drafts):
            if held and draft.stream in held:
                continue
            if isinstance(draft, PreparedMessage):
                self.messages.append(draft)
                self.message_places.append(place)
            else:
                self.publications.append(draft)
                self.publication_places.append(place)


def _streams(drafts: Sequence[Prepared]) -> list[UUID]:
    return list({draft.stream for draft in drafts})
