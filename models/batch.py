"""
The statements that store a batch of messages, and the thinking around them, without any I/O.

The writer runs them on its own connection, ``operations.messages.send_message`` inside a Django transaction, for a
batch of one. LOCK comes first, then APPEND in the same transaction: the second statement's snapshot is younger than the
locks, so what it decides (membership, roles, duplicates, offsets) is exact per conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from . import payloads
from .drafts import NO_ID, PreparedMessage, PreparedPublication, StoredMessage
from .errors import ConversationNotFound, DirectBlocked, DomainError, PostingNotAllowed, ReplyTargetGone
from .events import Publication
from .streams import WIRE_EPOCH

MESSAGE_SENT = "message.sent"


def _one_line(statement: str) -> str:
    # psycopg remembers what it found out about a statement only while that is shorter than 4 KB.
    return " ".join(statement.split())


# Everyone who changes streams takes their rows in this order; any other order deadlocks.
# The first parameter is the id of the batch: its row tells after a broken commit whether the batch was stored.
LOCK = _one_line(f"""
WITH batch AS (INSERT INTO messaging_writerbatch (id) VALUES (%b))
SELECT s.id, s.channel, {WIRE_EPOCH} FROM messaging_stream s
WHERE s.id = ANY (%b::uuid[]) ORDER BY s.kind, s.id FOR NO KEY UPDATE OF s""")

# The same for a batch that met a stream which somebody holds for long: take what is free.
LOCK_FREE = f"{LOCK} SKIP LOCKED"
EXISTING = "SELECT id FROM messaging_stream WHERE id = ANY (%b::uuid[])"

STORED, ABSENT, DUPLICATE, NOT_POSTER, BLOCKED, NO_TARGET = range(6)
REFUSALS: dict[int, type[DomainError]] = {
    ABSENT: ConversationNotFound,
    NOT_POSTER: PostingNotAllowed,
    BLOCKED: DirectBlocked,
    NO_TARGET: ReplyTargetGone,
}

# The tops are read from the rows that are locked already, so numbering needs no join with the update that raises them.
#
# On tables that are empty, or were when they were last analysed, all indexes look alike, and the wrong one reads a
# whole conversation, or all memberships of somebody, for each message. Hence look-ups that only the right one serves:
# BETWEEN instead of = on member.user_id, rows compared and ordered as in the index on client_id, and the place of a
# stream's row, which cannot move while this transaction holds it.
APPEND = _one_line(f"""
WITH draft AS MATERIALIZED (
  SELECT * FROM unnest(
    %b::uuid[], %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::uuid[])
  WITH ORDINALITY AS t (id, conversation_id, sender_id, client_id, kind, text, data, mentions, reply_to, n)),
judged AS MATERIALIZED (
  SELECT d.*, s.top, s.ctid AS stream_row, c.kind AS conversation_kind,
    f.id AS first_id, f.seq AS first_seq, f.created_at AS first_at,
    CASE
      WHEN m.user_id IS NULL OR s.id IS NULL THEN {ABSENT}
      WHEN f.id IS NOT NULL THEN {DUPLICATE}
      WHEN c.kind = 'feed' AND m.role NOT IN ('owner', 'admin') THEN {NOT_POSTER}
      WHEN c.kind = 'direct' AND (
          EXISTS (SELECT FROM messaging_block b WHERE b.blocker_id = c.direct_low AND b.blocked_id = c.direct_high)
          OR EXISTS (SELECT FROM messaging_block b WHERE b.blocker_id = c.direct_high AND b.blocked_id = c.direct_low)
        ) THEN {BLOCKED}
      WHEN d.reply_to <> '{NO_ID}' AND d.conversation_id IS DISTINCT FROM (
          SELECT r.conversation_id FROM messaging_message r WHERE r.id = d.reply_to) THEN {NO_TARGET}
      ELSE {STORED}
    END AS verdict
  FROM draft d
  LEFT JOIN messaging_stream s ON s.id = d.conversation_id
  LEFT JOIN messaging_conversation c ON c.id = d.conversation_id
  LEFT JOIN messaging_member m
    ON m.conversation_id = d.conversation_id AND m.user_id BETWEEN d.sender_id AND d.sender_id
  LEFT JOIN LATERAL (
    SELECT f.id, f.seq, f.created_at FROM messaging_message f
    WHERE f.conversation_id = d.conversation_id
      AND (f.sender_id, f.client_id) >= (d.sender_id, d.client_id)
      AND (f.sender_id, f.client_id) <= (d.sender_id, d.client_id)
    ORDER BY f.sender_id, f.client_id LIMIT 1) f ON true),
placed AS MATERIALIZED (
  SELECT j.*, row_number() OVER same AS place, top + row_number() OVER same AS seq,
    CASE WHEN mentions = '' THEN '{{}}'::uuid[] ELSE (
      SELECT coalesce(array_agg(x.user_id ORDER BY x.place), '{{}}')
      FROM unnest(mentions::uuid[]) WITH ORDINALITY x (user_id, place), LATERAL (
        SELECT FROM messaging_member m
        WHERE m.conversation_id = j.conversation_id AND m.user_id BETWEEN x.user_id AND x.user_id LIMIT 1) known
      ) END AS mentioned
  FROM judged j WINDOW same AS (PARTITION BY conversation_id, verdict ORDER BY n)),
accepted AS (SELECT * FROM placed WHERE verdict = {STORED}),
raised AS (
  UPDATE messaging_stream s SET top = a.top, active_at = statement_timestamp(), xid = pg_current_xact_id()
  FROM (SELECT stream_row, max(seq) AS top FROM accepted GROUP BY stream_row) a WHERE s.ctid = a.stream_row),
stored AS (
  INSERT INTO messaging_message
    (id, conversation_id, seq, kind, sender_id, client_id, text, data, mentions, reply_to, created_at)
  SELECT id, conversation_id, seq, kind, sender_id, client_id, nullif(text, ''), nullif(data, '')::jsonb, mentioned,
    nullif(reply_to, '{NO_ID}'), statement_timestamp() FROM accepted),
published AS (
  INSERT INTO messaging_publication (stream_id, "offset", kind, message_id)
  SELECT conversation_id, seq, 'message.sent', id FROM accepted),
outbox AS (
  INSERT INTO messaging_notification (id, conversation_id, message_id, seq, sender_id)
  SELECT id, conversation_id, id, seq, sender_id FROM accepted),
hidden AS MATERIALIZED (
  SELECT m.id FROM (
    SELECT DISTINCT conversation_id FROM accepted WHERE conversation_kind = 'direct' ORDER BY conversation_id) a,
  LATERAL (
    SELECT m.id FROM messaging_member m WHERE m.conversation_id = a.conversation_id AND m.is_hidden
    ORDER BY m.user_id FOR NO KEY UPDATE) m),
shown AS (
  UPDATE messaging_member SET is_hidden = false, xid = pg_current_xact_id()
  WHERE id = ANY (ARRAY(SELECT id FROM hidden)))
SELECT n, verdict, seq, mentioned, first_id, first_seq, first_at, statement_timestamp() FROM placed""")


# Raw publications. ``ref`` is the draft's own id: a draft with an idempotency key finds its first publication by it,
# and a broken commit's publications their drafts. Only drafts with a key look, through the last thousand.
PUBLISH = _one_line("""
WITH draft AS MATERIALIZED (
  SELECT * FROM unnest(%b::uuid[], %b::uuid[], %b::bool[], %b::text[], %b::bytea[], %b::bytea[], %b::text[])
  WITH ORDINALITY AS t (id, stream_id, is_keyed, kind, data, info, tags, n)),
judged AS MATERIALIZED (
  SELECT d.*, s.top, s.ctid AS stream_row, CASE WHEN is_keyed THEN (
    SELECT max(p."offset") FROM messaging_publication p
    WHERE p.stream_id = d.stream_id AND p."offset" > s.top - 1000 AND p.ref = d.id) END AS first_offset
  FROM draft d LEFT JOIN messaging_stream s ON s.id = d.stream_id),
placed AS MATERIALIZED (
  SELECT *, coalesce(first_offset, top + row_number() OVER (
    PARTITION BY stream_id, first_offset IS NULL ORDER BY n)) AS "offset" FROM judged),
accepted AS (SELECT * FROM placed WHERE first_offset IS NULL),
raised AS (
  UPDATE messaging_stream s SET top = a.top, xid = pg_current_xact_id()
  FROM (SELECT stream_row, max("offset") AS top FROM accepted GROUP BY stream_row) a WHERE s.ctid = a.stream_row),
published AS (
  INSERT INTO messaging_publication (stream_id, "offset", kind, data, info, tags, ref)
  SELECT stream_id, "offset", kind, data, nullif(info, ''), nullif(tags, '')::jsonb, id FROM accepted)
SELECT n, "offset", first_offset IS NOT NULL FROM placed""")

# What a batch stored whose answer was lost, by the transaction that its row names.
STORED_BY_BATCH = _one_line(f"""
SELECT coalesce(p.message_id, p.ref), s.channel, {WIRE_EPOCH}, p."offset", p.created_at, m.mentions
FROM messaging_writerbatch b
JOIN messaging_publication p ON p.xid = b.xid
JOIN messaging_stream s ON s.id = p.stream_id
LEFT JOIN messaging_message m ON m.id = p.message_id
WHERE b.id = %b""")


class Locked(NamedTuple):
    """A stream whose row this transaction holds."""

    id: UUID
    channel: str
    epoch: str


class Verdict(NamedTuple):
    """What APPEND says about one draft; ``n`` counts from 1."""

    n: int
    verdict: int
    seq: int
    mentioned: list[UUID]
    first_id: UUID
    first_seq: int
    first_at: datetime
    now: datetime


def message_columns(batch: Sequence[PreparedMessage]) -> tuple[list[object], ...]:
    """Turn messages into APPEND's parameters."""
    return (
        [m.id for m in batch],
        [m.conversation for m in batch],
        [m.sender for m in batch],
        [m.client_id for m in batch],
        [m.kind for m in batch],
        [m.text for m in batch],
        [m.data for m in batch],
        [m.mentions for m in batch],
        [m.reply_to for m in batch],
    )


def publication_columns(batch: Sequence[PreparedPublication]) -> tuple[list[object], ...]:
    """Turn raw publications into PUBLISH's parameters."""
    return (
        [p.id for p in batch],
        [p.stream for p in batch],
        [p.draft.idempotency_key is not None for p in batch],
        [p.draft.kind for p in batch],
        [p.draft.data for p in batch],
        [p.draft.info or b"" for p in batch],
        [p.tags for p in batch],
    )


def stored_message(
    prepared: PreparedMessage, stream: Locked, seq: int, mentioned: list[UUID], created_at: datetime
) -> tuple[StoredMessage, Publication]:
    """Show a message that was just stored: to its sender and, encoded once, to everyone else."""
    message_json = payloads.to_json(
        payloads.MessagePayload(
            id=prepared.id,
            conversation=prepared.conversation,
            seq=seq,
            kind=prepared.kind,
            sender=prepared.sender,
            client_id=prepared.client_id,
            text=prepared.text or None,
            data=msgspec.Raw(prepared.data.encode()) if prepared.data else None,
            mentions=mentioned,
            reply_to=prepared.reply_to if prepared.reply_to != NO_ID else None,
            created_at=created_at,
        )
    )
    stored = StoredMessage(
        id=prepared.id,
        conversation=prepared.conversation,
        seq=seq,
        created_at=created_at,
        message_json=message_json,
    )
    return stored, Publication(
        channel=stream.channel,
        offset=seq,
        epoch=stream.epoch,
        data=payloads.about_message(MESSAGE_SENT, message_json),
        kind=MESSAGE_SENT,
    )


def judged_message(
    prepared: PreparedMessage, verdict: Verdict, streams: Mapping[UUID, Locked]
) -> tuple[StoredMessage | DomainError, Publication | None]:
    """Turn the database's verdict into the sender's answer, and the publication if there is one."""
    if verdict.verdict == STORED:
        return stored_message(prepared, streams[prepared.conversation], verdict.seq, verdict.mentioned, verdict.now)
    if verdict.verdict == DUPLICATE:
        first = StoredMessage(
            id=verdict.first_id,
            conversation=prepared.conversation,
            seq=verdict.first_seq,
            created_at=verdict.first_at,
            duplicate=True,
        )
        return first, None
    return REFUSALS[verdict.verdict](), None


def stored_publication(prepared: PreparedPublication, stream: Locked, offset: int) -> Publication:
    """Show a raw publication that was just stored."""
    return Publication(
        channel=stream.channel,
        offset=offset,
        epoch=stream.epoch,
        data=prepared.draft.data,
        kind=prepared.draft.kind,
        info=prepared.draft.info,
        tags=prepared.draft.tags,
        delta=prepared.draft.delta,
    )
