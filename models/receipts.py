"""
Receipts: cursors that only move forward, stored four times a second at most.

The edges call ``ReceiptBatcher.put`` and are answered at once: a crash may lose a quarter of a second of ticks, which
the next receipt repairs. ``store`` is the one way into the tables, for the batcher and for ``operations.receipts``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DatabaseError, connection, transaction

from . import channels, events, limits, screens, streams, threads
from .errors import InvalidInput, Overloaded, Unavailable
from .events import Event

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
# Rows that may wait while the database is slow; each is one device in one conversation.
MAX_WAITING = 100_000
_MAX_SEQ = 1 << 62


class Receipt(NamedTuple):
    """How far a device has got in a conversation; what was read has also been delivered."""

    user: UUID
    device: UUID | None
    conversation: UUID
    delivered: int
    read: int = 0


class ReceiptBatcher:
    """
    Gathers the receipts of a process: the latest per device and conversation, stored together.

    While the database is away they wait, merged, up to ``MAX_WAITING`` rows; then ``put`` refuses.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[UUID, UUID | None, UUID], Receipt] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_open = True

    def put(self, receipt: Receipt) -> None:
        """
        Take a receipt; who is not a member, or is further already, is passed over in silence.

        Raises:
            InvalidInput: the seq is none.
            Overloaded: too many wait already.
        """
        check_seq(receipt.delivered)
        check_seq(receipt.read)
        if not self._is_open or len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        self._merge(receipt)
        if self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._begin)

    async def flush(self) -> None:
        """Store what waits now instead of later."""
        if self._timer:
            self._timer.cancel()
            self._begin()
        while self._task:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Take no more, and store what waits; what the database does not take is dropped."""
        self._is_open = False
        await self.flush()
        if self._timer:
            self._timer.cancel()

    def _merge(self, receipt: Receipt) -> None:
        key = receipt[:3]
        old = self._waiting.get(key)
        self._waiting[key] = receipt if old is None else _further(old, receipt)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._store(), name="receipts")

    async def _store(self) -> None:
        waiting, self._waiting = self._waiting, {}
        try:
            await threads.run(store, list(waiting.values()))
        except (DatabaseError, Unavailable) as error:
            log.warning("%d receipts wait for the database: %s", len(waiting), error)
            for receipt in waiting.values():
                self._merge(receipt)
        except Exception:
            log.exception("%d receipts were dropped", len(waiting))
        finally:
            self._task = None
            if self._waiting and self._is_open:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._begin)


class _Moved(NamedTuple):
    """A member whose cursors went forward."""

    conversation: UUID
    user: UUID
    read: int
    delivered: int
    has_read: bool
    is_delivered: bool
    channel: str
    is_heard: bool


def check_seq(seq: int) -> None:
    """
    Refuse what can be no seq.

    Raises:
        InvalidInput
    """
    if not 0 <= seq <= _MAX_SEQ:
        raise InvalidInput("A seq is a whole number from 0.")


@transaction.atomic
def store(receipts: Sequence[Receipt]) -> None:
    """
    Move cursors forward: never back, never past the top, only of members.

    The user's other devices hear of what was read by a publication; the conversation hears hints, unless it is large.
    """
    if not receipts:
        return
    # Personal streams come before the members' rows here, as everywhere.
    streams.lock(channels.personal(receipt.user) for receipt in receipts if receipt.read)
    moved = _move_members(receipts)
    _move_devices(receipts)
    read = [
        (channels.personal(m.user), events.ConversationRead(conversation=m.conversation, seq=m.read))
        for m in moved
        if m.has_read
    ]
    if read:
        streams.append_each(read)
        screens.clear_read(_reads(receipts, moved))
    streams.hint_each([hint for m in moved if m.is_heard for hint in _hints(m)])


def _reads(receipts: Sequence[Receipt], moved: Sequence[_Moved]) -> list[screens.Read]:
    devices = {(receipt.user, receipt.conversation): receipt.device for receipt in receipts if receipt.read}
    return [
        screens.Read(m.user, m.conversation, m.read, devices.get((m.user, m.conversation))) for m in moved if m.has_read
    ]


def _further(one: Receipt, other: Receipt) -> Receipt:
    return one._replace(delivered=max(one.delivered, other.delivered), read=max(one.read, other.read))


def _hints(moved: _Moved) -> Iterable[tuple[str, Event]]:
    if moved.is_delivered:
        yield (
            moved.channel,
            events.ReceiptDelivered(conversation=moved.conversation, user=moved.user, seq=moved.delivered),
        )
    if moved.has_read:
        yield moved.channel, events.ReceiptRead(conversation=moved.conversation, user=moved.user, seq=moved.read)


_RECEIPT = """
receipt AS (
  SELECT user_id, device_id, conversation_id, greatest(delivered, read) AS delivered, read
  FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[], %s::bigint[])
  AS t (user_id, device_id, conversation_id, delivered, read))"""


def _move_members(receipts: Sequence[Receipt]) -> list[_Moved]:
    # Rows are locked in the order (conversation, user), which the writer keeps as well. What the update compares with
    # are the values after the lock; those that the CTE shows are the same, because nobody else can change them then.
    rows = _rows(
        f"""WITH {_RECEIPT},
        wanted AS (
          SELECT r.conversation_id, r.user_id, s.channel, least(max(r.read), s.top) AS read,
            least(max(r.delivered), s.top) AS delivered
          FROM receipt r JOIN messaging_stream s ON s.id = r.conversation_id
          GROUP BY r.conversation_id, r.user_id, s.channel, s.top),
        held AS (
          SELECT m.id, m.read_seq, m.delivered_seq, w.* FROM wanted w
          JOIN messaging_member m ON m.conversation_id = w.conversation_id AND m.user_id = w.user_id
          ORDER BY m.conversation_id, m.user_id FOR NO KEY UPDATE OF m)
        UPDATE messaging_member m
        SET read_seq = greatest(m.read_seq, h.read), delivered_seq = greatest(m.delivered_seq, h.delivered),
          xid = pg_current_xact_id()
        FROM held h JOIN messaging_conversation c ON c.id = h.conversation_id
        WHERE m.id = h.id AND (h.read > m.read_seq OR h.delivered > m.delivered_seq)
        RETURNING m.conversation_id, m.user_id, m.read_seq, m.delivered_seq, m.read_seq > h.read_seq,
          m.delivered_seq > h.delivered_seq, h.channel, c.kind <> 'feed' AND c.member_count <= %s""",
        receipts,
        limits.MAX_MEMBERS_FOR_HINTS,
    )
    return [_Moved(*row) for row in rows]


def _move_devices(receipts: Sequence[Receipt]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"""WITH {_RECEIPT}
            INSERT INTO messaging_devicereceipt AS d (id, device_id, conversation_id, delivered_seq)
            SELECT gen_random_uuid(), r.device_id, r.conversation_id, least(max(r.delivered), s.top)
            FROM receipt r
            JOIN messaging_device own ON own.id = r.device_id AND own.user_id = r.user_id
            JOIN messaging_member m ON m.conversation_id = r.conversation_id AND m.user_id = r.user_id
            JOIN messaging_stream s ON s.id = r.conversation_id
            GROUP BY r.device_id, r.conversation_id, s.top
            ORDER BY r.device_id, r.conversation_id
            ON CONFLICT (device_id, conversation_id)
            DO UPDATE SET delivered_seq = excluded.delivered_seq, xid = pg_current_xact_id()
            WHERE excluded.delivered_seq > d.delivered_seq""",
            _columns(receipts),
        )


def _rows(statement: str, receipts: Sequence[Receipt], *more: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, [*_columns(receipts), *more])
        return list(cursor.fetchall())


def _columns(receipts: Sequence[Receipt]) -> list[Any]:
    return [list(column) for column in zip(*receipts, strict=True)]
