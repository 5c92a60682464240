"""
Streams for synchronous operations: lock the rows, append publications, hand them over after the commit.

Everybody locks in one order, (kind, id): conversations before persons before everything else. Call ``lock`` once per
transaction, with all channels that it will append to, before reading what the decision depends on.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from django.db import connection, transaction

from . import channels, payloads
from .events import Event, Publication

if TYPE_CHECKING:
    from .message import Message

log = logging.getLogger(__name__)

# What clients see as the epoch of a stream ``s``: the deployment's, new after a restore, and the stream's own.
WIRE_EPOCH = "concat_ws('.', (SELECT epoch FROM messaging_deployment), s.epoch)"

CREATE = """
INSERT INTO messaging_stream (id, kind, channel, epoch, top)
SELECT id, kind, channel, epoch, 0
FROM unnest(%s::uuid[], %s::smallint[], %s::text[], %s::text[]) AS t (id, kind, channel, epoch)
ORDER BY kind, id ON CONFLICT DO NOTHING"""

APPEND = f"""
WITH event AS (
  SELECT %s::uuid AS message_id, t.* FROM unnest(%s::uuid[], %s::text[], %s::bytea[], %s::uuid[], %s::uuid[])
  WITH ORDINALITY AS t (stream_id, kind, data, subject, ref, n)),
placed AS MATERIALIZED (
  SELECT e.*, s.top + row_number() OVER (PARTITION BY e.stream_id ORDER BY n) AS "offset", {WIRE_EPOCH} AS epoch
  FROM event e JOIN messaging_stream s ON s.id = e.stream_id),
raised AS (
  UPDATE messaging_stream s SET top = p.top, xid = pg_current_xact_id()
  FROM (SELECT stream_id, max("offset") AS top FROM placed GROUP BY stream_id) p WHERE s.id = p.stream_id),
stored AS (
  INSERT INTO messaging_publication (stream_id, "offset", kind, message_id, data, subject, ref)
  SELECT stream_id, "offset", kind, message_id, nullif(data, ''), subject, ref FROM placed)
SELECT "offset", epoch FROM placed ORDER BY n"""

_TRIM = """
DELETE FROM messaging_publication WHERE (stream_id, "offset") IN (
  SELECT p.stream_id, p."offset" FROM messaging_stream s JOIN messaging_publication p ON p.stream_id = s.id
  WHERE s.kind = 2 AND s.channel LIKE %s AND (NOT %s OR position(':' in s.channel) = 0)
    AND (p."offset" <= s.top - %s OR p.created_at < now() - make_interval(secs => %s))
  LIMIT %s FOR UPDATE OF p SKIP LOCKED)"""
_TRIM_SLICE = 5_000

Handler = Callable[[list[Publication]], None]
_handlers: list[Handler] = []


class LockedStream(NamedTuple):
    """A stream whose row this transaction holds; ``epoch`` as clients see it."""

    id: UUID
    channel: str
    epoch: str
    top: int


def on_publish(handler: Handler) -> Callable[[], None]:
    """Hear of every publication after its commit, from whatever thread made it. Returns what ends that."""
    _handlers.append(handler)
    return lambda: _handlers.remove(handler)


def publish(publications: list[Publication]) -> None:
    """Hand publications that are committed, or hints, to everyone who registered; one that fails stops nobody."""
    for handler in tuple(_handlers):
        try:
            handler(publications)
        except Exception:
            log.exception("handing over publications failed")


def new_epoch() -> str:
    """A name for one life of a stream; never empty and never "_", which clients send when they lost their position."""
    return secrets.token_hex(4)


def wire_epoch(stream_epoch: str) -> str:
    """Join a stream's own epoch with the deployment's, as clients see it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT epoch FROM messaging_deployment")
        row = cursor.fetchone()
    return ".".join([*(row or ()), stream_epoch])


def create(*names: str) -> None:
    """Make the streams of these channels where they do not exist: what creates a conversation calls it."""
    with connection.cursor() as cursor:
        cursor.execute(CREATE, creation(names))


def creation(names: Iterable[str]) -> list[list[object]]:
    """Turn channels into CREATE's parameters."""
    distinct = list(dict.fromkeys(names))
    return [
        [channels.stream_id(name) for name in distinct],
        [channels.stream_kind(name) for name in distinct],
        list(distinct),
        [new_epoch() for _ in distinct],
    ]


def trim(pattern: str, *, is_unprefixed: bool, size: int, seconds: float) -> int:
    """Delete the publications of some of the operator's channels that are beyond a size or an age; how many."""
    total = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_TRIM, [pattern, is_unprefixed, size, seconds, _TRIM_SLICE])
            count: int = cursor.rowcount
        total += count
        if count < _TRIM_SLICE:
            return total


def lock(names: Iterable[str]) -> dict[str, LockedStream]:
    """
    Lock the streams of these channels in the order that everybody keeps, by one statement.

    Personal streams that do not exist yet are made; any other that is missing is missing in the answer.
    """
    wanted = set(names)
    locked = _lock(wanted)
    missing = [name for name in wanted - locked.keys() if channels.personal_user_id(name)]
    if missing:
        create(*missing)
        # Persons come after conversations in the order, and nobody else can hold rows that are this new.
        locked |= _lock(missing)
    return locked


def append(channel: str, event: Event, *, message: Message | None = None) -> int:
    """
    Store an event in a channel's stream and return its offset; its stream must be locked.

    About a ``message`` only the reference is stored, so that no copy of its text stays behind.
    """
    (offset,) = append_each([(channel, event)], message=message)
    return offset


def append_all(names: Iterable[str], event: Event) -> list[int]:
    """Store the same event in several streams by one statement; all must be locked."""
    return append_each([(name, event) for name in names])


def append_each(pairs: Sequence[tuple[str, Event]], *, message: Message | None = None) -> list[int]:
    """Store many events by one statement and return their offsets; all their streams must be locked."""
    encoded = [payloads.to_json(event) for _, event in pairs]
    with connection.cursor() as cursor:
        cursor.execute(
            APPEND,
            [
                message.id if message else None,
                [channels.stream_id(channel) for channel, _ in pairs],
                [event.kind for _, event in pairs],
                [b"" if message else data for data in encoded],
                [event.subject_id() for _, event in pairs],
                [event.ref_id() for _, event in pairs],
            ],
        )
        places = cursor.fetchall()
    assert len(places) == len(pairs), "append() needs streams that exist: lock() them first"
    hand_over(
        [
            _publication(channel, offset, epoch, event, data)
            for (channel, event), data, (offset, epoch) in zip(pairs, encoded, places, strict=True)
        ]
    )
    return [offset for offset, _ in places]


def append_message(message: Message, event: type[payloads.MessageEvent]) -> int:
    """
    Store a message and what happened to it, and return the offset; the conversation's stream must be locked.

    A message that is new takes its ``seq`` here; one that was edited or deleted keeps it, and only the event is new.
    """
    channel = message.conversation.channel
    if message._state.adding:
        message.seq = _lock([channel])[channel].top + 1
        message.save(force_insert=True)
        _touch(message.conversation_id)
    return append(channel, event(message=payloads.message(message)), message=message)


def hint(channel: str, event: Event) -> None:
    """Tell whoever is listening right now, once the transaction is committed; kept nowhere."""
    hint_each([(channel, event)])


def hint_each(pairs: Sequence[tuple[str, Event]]) -> None:
    """The same for many at once."""
    if pairs:
        hand_over([_publication(channel, 0, "", event, payloads.to_json(event)) for channel, event in pairs])


def hand_over(publications: list[Publication]) -> None:
    """Publish after the commit; at once where there is no transaction."""
    transaction.on_commit(lambda: publish(publications), robust=True)


def _lock(names: Iterable[str]) -> dict[str, LockedStream]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT s.id, s.channel, {WIRE_EPOCH}, s.top FROM messaging_stream s
            WHERE s.id = ANY(%s::uuid[]) ORDER BY s.kind, s.id FOR NO KEY UPDATE OF s""",
            [[channels.stream_id(name) for name in names]],
        )
        return {row[1]: LockedStream(*row) for row in cursor.fetchall()}


def _touch(stream_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE messaging_stream SET active_at = statement_timestamp() WHERE id = %s", [stream_id])


def _publication(channel: str, offset: int, epoch: str, event: Event, data: bytes) -> Publication:
    return Publication(
        channel=channel,
        offset=offset,
        epoch=epoch,
        data=data,
        kind=event.kind,
        subject=event.subject_id(),
        ref=event.ref_id(),
    )
