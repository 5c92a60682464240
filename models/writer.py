"""
The group-commit writer: what arrived while the last commit was running is stored by the next, in one round trip.

One per process. The edges call ``send`` and ``publish`` on its event loop; ``writer_connection`` runs the statements.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors as pg

from .drafts import MessageDraft, PublicationDraft, StoredMessage, prepare, prepare_publication
from .errors import DatabaseUnavailable, DomainError, InvalidInput, Overloaded
from .events import Publication
from .ids import new_id
from .writer_connection import Answer, Prepared, Result, UnsafeDatabase, WriterConnection

__all__ = ["MessageDraft", "PublicationDraft", "StoredMessage", "UnsafeDatabase", "Writer"]

log = logging.getLogger(__name__)

# Enough that a full batch still commits within some 30 ms, and a larger one would not be cheaper.
BATCH = 500
# How often a batch is run whose outcome an outage hides; its age ends it too.
MAX_RUNS = 5
RERUN_SECONDS = 0.1
# How often expired drafts are looked for; their bound is that much softer.
SWEEP_SECONDS = 0.25
# For this long after a lock timed out, batches take only the streams that are free, so that a held one delays few.
CAREFUL_SECONDS = 1.0
# The pause before drafts are tried again when every stream of a batch is held.
BUSY_SECONDS = 0.02
MAX_RECONNECT_SECONDS = 1.0
# Codes that blame what was sent, not the state of the database: data, constraints, program limits.
_BLAMES_THE_DRAFT = ("21", "22", "23", "54")


class Writer:
    """
    Stores messages and raw publications of all callers of a process.

    The queue is bounded by bytes and by age: what finds it full, or waits longer than ``max_age_seconds``, is refused
    with a retryable error. ``on_committed`` hears of each batch right after its commit, in the loop's thread.
    """

    def __init__(
        self,
        dsn: str,
        *,
        max_bytes: int = 64 << 20,
        max_age_seconds: float = 4.0,
        batch: int = BATCH,
        on_committed: Callable[[list[Publication]], None],
        require_durable: bool = True,
    ) -> None:
        self._dsn = dsn
        self._max_bytes = max_bytes
        self._max_age = max_age_seconds
        self._batch = batch
        self._on_committed = on_committed
        self._require_durable = require_durable
        self._queue: deque[_Entry] = deque()
        self._queued_bytes = 0
        self._is_open = self._is_abandoned = False
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._db: WriterConnection | None = None
        self._careful_until = 0.0

    async def start(self) -> None:
        """
        Begin to take drafts; a database that is not there yet is waited for in the background.

        Raises:
            UnsafeDatabase: fsync, full_page_writes or synchronous_commit is off.
        """
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        with suppress(psycopg.OperationalError):
            await self._connect()
        self._is_open = True
        self._task = self._loop.create_task(self._run(), name="writer")
        self._sweep()

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        """Take no more drafts, store those that wait, and refuse what is left after ``timeout`` seconds."""
        self._is_open = False
        if self._task is None:
            return
        self._wake.set()
        await asyncio.wait([self._task], timeout=timeout)
        self._is_abandoned = True
        # A statement that hangs ends with its socket; what hangs otherwise is cancelled.
        if self._db:
            self._db.cut()
        await asyncio.wait([self._task], timeout=1)
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None
        if self._sweeper:
            self._sweeper.cancel()

    def send(self, draft: MessageDraft) -> asyncio.Future[StoredMessage]:
        """
        Store a message; a future instead of a coroutine, so that the hot path makes no task.

        Raises (in the future):
            InvalidInput, ConversationNotFound, PostingNotAllowed, DirectBlocked, ReplyTargetGone: it is refused.
            Overloaded, DatabaseUnavailable: not stored, or not known to be; the same ``client_id`` may be sent again.
        """
        return self._enqueue(prepare, draft)

    def publish(self, draft: PublicationDraft) -> asyncio.Future[Publication]:
        """Store a raw publication in a channel of the operator's own; its stream is made when it is the first."""
        return self._enqueue(prepare_publication, draft)

    # --- the queue

    def _enqueue(self, prepare: Callable[[Any], Prepared], draft: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            if not self._is_open or self._queued_bytes >= self._max_bytes:
                raise Overloaded
            entry = _Entry(prepare(draft), future, self._loop.time())
        except DomainError as error:
            future.set_exception(error)
            return future
        self._queue.append(entry)
        self._queued_bytes += entry.prepared.size
        self._wake.set()
        return future

    def _take(self) -> list[_Entry]:
        """Take the next batch; a draft that repeats one in it waits for the next, where the table answers it."""
        taken: dict[tuple[object, ...], _Entry] = {}
        repeated: list[_Entry] = []
        while self._queue and len(taken) < self._batch:
            entry = self._queue.popleft()
            self._queued_bytes -= entry.prepared.size
            if taken.setdefault(entry.prepared.key, entry) is not entry:
                repeated.append(entry)
        self._put_back(repeated)
        return list(taken.values())

    def _put_back(self, entries: Sequence[_Entry]) -> None:
        self._queue.extendleft(reversed(entries))
        self._queued_bytes += sum(entry.prepared.size for entry in entries)

    def _sweep(self) -> None:
        """Refuse what has waited too long: a commit that hangs must not make everyone behind it hang."""
        while self._queue and self._is_expired(self._queue[0]):
            entry = self._queue.popleft()
            self._queued_bytes -= entry.prepared.size
            entry.refuse(Overloaded())
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _is_expired(self, entry: _Entry) -> bool:
        return self._is_abandoned or entry.since < self._loop.time() - self._max_age

    # --- one batch after the other

    async def _run(self) -> None:
        try:
            while self._is_open or self._queue:
                if self._queue:
                    await self._store_and_answer(self._take())
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            await self._disconnect()
            _refuse(self._queue, DatabaseUnavailable())
            self._queue.clear()

    async def _store_and_answer(self, entries: list[_Entry]) -> None:
        try:
            await self._store(entries)
        except BaseException as error:
            _refuse(entries, DatabaseUnavailable())
            await self._disconnect()
            if not isinstance(error, Exception):
                raise
            log.exception("a batch of %d failed", len(entries))

    async def _store(self, entries: list[_Entry]) -> None:
        """
        Store a batch and answer everyone in it, running it again while an outage hides the outcome.

        A commit whose answer was lost is recognised by the batch's own row: inserting the same id again waits for the
        first transaction to end, and fails if it was committed.
        """
        batch_id, is_stored = new_id(), False
        for run in range(MAX_RUNS):
            db = await self._connected(entries)
            if db is None:
                break
            try:
                if is_stored:
                    entries = self._answer(entries, await db.recognise(batch_id, _drafts(entries)))
                    batch_id, is_stored = new_id(), False
                if entries:
                    await self._attempt(db, batch_id, entries)
                return
            except psycopg.Error as error:
                if _is_stored_already(error):
                    is_stored = True
                elif (error.sqlstate or "").startswith(_BLAMES_THE_DRAFT):
                    return await self._halve(entries, error)
                elif isinstance(error, pg.LockNotAvailable):
                    self._careful_until = self._loop.time() + CAREFUL_SECONDS
                else:
                    log.warning("a batch of %d is run again: %s", len(entries), error)
                    await self._disconnect()
                    # At once the first time, for a connection that broke; slower for a database that takes no writes.
                    await asyncio.sleep(run * RERUN_SECONDS)
        _refuse(entries, DatabaseUnavailable())

    async def _attempt(self, db: WriterConnection, batch_id: UUID, entries: list[_Entry]) -> None:
        is_careful = self._loop.time() < self._careful_until
        store = db.store_free if is_careful else db.store
        postponed = self._answer(entries, await store(batch_id, _drafts(entries)))
        self._put_back(postponed)
        if len(postponed) == len(entries):
            await asyncio.sleep(BUSY_SECONDS)

    async def _halve(self, entries: list[_Entry], error: psycopg.Error) -> None:
        """Find the draft that PostgreSQL refuses, so that it harms no other."""
        if len(entries) == 1:
            log.warning("PostgreSQL refuses a draft: %s", error)
            entries[0].refuse(InvalidInput("The database cannot hold this content."))
            return
        middle = len(entries) // 2
        await self._store(entries[:middle])
        await self._store(entries[middle:])

    def _answer(self, entries: list[_Entry], result: Result) -> list[_Entry]:
        """Tell callers and listeners what is committed; return the entries that got no answer."""
        unanswered = []
        for entry, answer in zip(entries, result.answers, strict=True):
            if answer is None:
                unanswered.append(entry)
            else:
                entry.answer(answer)
        if result.publications:
            try:
                self._on_committed(result.publications)
            except Exception:
                log.exception("handing over %d publications failed", len(result.publications))
        return unanswered

    # --- the connection

    async def _connected(self, entries: list[_Entry]) -> WriterConnection | None:
        """Return the connection, made anew with a growing pause while it fails; None when all entries are expired."""
        pause = 0.05
        while self._db is None:
            live = [entry for entry in entries if not entry.future.done()]
            _refuse(filter(self._is_expired, live), DatabaseUnavailable())
            if all(entry.future.done() for entry in live):
                return None
            try:
                await self._connect()
            except psycopg.OperationalError as error:
                log.warning("PostgreSQL cannot be reached: %s", error)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
                pause = min(2 * pause, MAX_RECONNECT_SECONDS)
        return self._db

    async def _connect(self) -> None:
        self._db = await WriterConnection.open(self._dsn, require_durable=self._require_durable)

    async def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db:
            await db.close()


class _Entry:
    """A draft with its caller."""

    __slots__ = ("future", "prepared", "since")

    def __init__(self, prepared: Prepared, future: asyncio.Future[Any], since: float) -> None:
        self.prepared = prepared
        self.future = future
        self.since = since

    def answer(self, answer: Answer) -> None:
        if isinstance(answer, DomainError):
            self.refuse(answer)
        elif not self.future.done():
            self.future.set_result(answer)

    def refuse(self, error: DomainError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _refuse(entries: Iterable[_Entry], error: DomainError) -> None:
    for entry in entries:
        entry.refuse(error)


def _drafts(entries: Sequence[_Entry]) -> list[Prepared]:
    return [entry.prepared for entry in entries]


def _is_stored_already(error: psycopg.Error) -> bool:
    return isinstance(error, pg.UniqueViolation) and error.diag.constraint_name == "messaging_writerbatch_pkey"
