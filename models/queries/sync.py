"""
Everything that changed in any of a user's conversations since a cursor, in pages.

A cursor holds the snapshot of the last complete pass. What that snapshot could not see is what is new, whenever and by
whomever it was committed; within one stream commits come in the order of offsets, so it is the stream's end. A pass
may repeat what the client has, never leave out, and always ends, because it looks up to a snapshot of its own.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection

from .. import cursors, limits, payloads
from . import conversations
from . import streams as stream_queries

PAGE = 200


class _Place(msgspec.Struct):
    """Where a client is: the last complete pass, the present one, and the place within it."""

    epoch: str
    since: str
    began_at: int
    until: str = ""
    stream: UUID | None = None
    offset: int = 0


def sync(*, actor: UUID, cursor: str | None = None, limit: int = PAGE) -> payloads.SyncPage:
    """
    Read one page of what changed; call again with its cursor while ``has_more``, and later for what is new then.

    Raises:
        BadCursor: it is none of ours.
    """
    now, epoch = _present()
    place = cursors.decode(cursor, _Place) if cursor else None
    if place is None or place.epoch != epoch or place.began_at < time.time() - settings.ROOST.retention_days * 86_400:
        fresh = _Place(epoch=epoch, since=now, began_at=int(time.time()))
        return payloads.SyncPage(events=[], conversations=[], cursor=cursors.encode(fresh), has_more=False, reset=True)
    place.until = place.until or now
    limit = max(1, min(limit, PAGE))
    rows = _unseen(actor, place, limit + 1)
    page, has_more = rows[:limit], len(rows) > limit
    if has_more:
        place.stream, place.offset = page[-1][0], page[-1][1]
        changed: list[payloads.ConversationPayload] = []
    else:
        changed = conversations.get_conversations(actor=actor, conversation_ids=_changed(actor, place))
        place = _Place(epoch=epoch, since=place.until, began_at=int(time.time()))
    return payloads.SyncPage(
        events=[_event(row) for row in page],
        conversations=changed,
        cursor=cursors.encode(place),
        has_more=has_more,
    )


# The streams a user hears, each with the offset from which on it is theirs.
_OWN = """
SELECT s.id, s.xid, m.joined_seq AS floor, m.xid AS member_xid FROM messaging_member m
JOIN messaging_stream s ON s.id = m.conversation_id WHERE m.user_id = %(actor)s
UNION ALL
SELECT s.id, s.xid, 0, s.xid FROM messaging_stream s WHERE s.id = %(actor)s
"""


def _unseen(actor: UUID, place: _Place, limit: int) -> list[tuple[Any, ...]]:
    return _rows(
        f"""SELECT p.stream_id, p."offset", {stream_queries.COLUMNS}
        FROM ({_OWN}) AS own
        CROSS JOIN LATERAL (
          SELECT coalesce(max(x."offset"), 0) AS seen FROM (
            SELECT "offset" FROM messaging_publication WHERE stream_id = own.id
              AND pg_visible_in_snapshot(xid, %(since)s::pg_snapshot) ORDER BY "offset" DESC LIMIT 1) AS x
        ) AS boundary
        CROSS JOIN LATERAL (
          SELECT * FROM messaging_publication
          WHERE stream_id = own.id AND "offset" > greatest(boundary.seen, own.floor)
            AND (stream_id, "offset") > (%(stream)s::uuid, %(offset)s::bigint)
            AND pg_visible_in_snapshot(xid, %(until)s::pg_snapshot)
          ORDER BY "offset" LIMIT %(limit)s
        ) AS p
        JOIN messaging_stream s ON s.id = p.stream_id
        LEFT JOIN messaging_message m ON m.id = p.message_id
        WHERE own.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
          AND NOT pg_visible_in_snapshot(own.xid, %(since)s::pg_snapshot)
        ORDER BY p.stream_id, p."offset" LIMIT %(limit)s""",
        {
            "actor": actor,
            "since": place.since,
            "until": place.until,
            "stream": place.stream or UUID(int=0),
            "offset": place.offset,
            "limit": limit,
        },
    )


def _changed(actor: UUID, place: _Place) -> list[UUID]:
    """The conversations whose own state the last pass has not seen, up to a page of the most recent."""
    rows = _rows(
        f"""SELECT own.id FROM ({_OWN}) AS own
        WHERE own.id <> %(actor)s AND (
          NOT pg_visible_in_snapshot(own.xid, %(since)s::pg_snapshot)
          OR NOT pg_visible_in_snapshot(own.member_xid, %(since)s::pg_snapshot))
        LIMIT %(most)s""",
        {"actor": actor, "since": place.since, "most": limits.MAX_KNOWN_CONVERSATIONS},
    )
    return [row[0] for row in rows]


def _event(row: tuple[Any, ...]) -> payloads.SyncedEvent:
    publication = stream_queries.publication(row[2:])
    return payloads.SyncedEvent(
        channel=publication.channel, offset=publication.offset, data=msgspec.Raw(publication.data)
    )


def _present() -> tuple[str, str]:
    """The present snapshot, and the deployment's epoch."""
    return _rows("SELECT pg_current_snapshot()::text, coalesce((SELECT epoch FROM messaging_deployment), '')", {})[0]


def _rows(statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
