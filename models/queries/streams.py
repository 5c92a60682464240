"""
Reading streams: positions, recovery, history, gaps, and what nobody has heard of yet.

Each costs the same few queries however many channels it is asked about; consumers call them through ``threads.run``.
Publications about a message are rendered from the message's row as it is now: what was deleted comes as a tombstone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.db import connection

from .. import channels, limits, payloads, streams
from ..events import Publication

# A gap larger than this is read in several turns; what asks does so again.
MAX_GAP_PUBLICATIONS = 5_000


class Position(NamedTuple):
    """Where a stream ends; ``epoch`` as clients see it."""

    epoch: str
    top: int


class Recovered(NamedTuple):
    """What a client missed; None where that cannot be told completely."""

    position: Position
    publications: list[Publication] | None


class Range(NamedTuple):
    """A part of a channel's stream: the publications after one offset, up to another."""

    name: str
    after: int
    upto: int


def read_positions(names: Iterable[str]) -> dict[str, Position]:
    """
    Say where each channel's stream ends.

    A channel that never had a publication gets its epoch here; a conversation that does not exist is left out.
    """
    wanted = set(names)
    found = _positions(wanted)
    missing = [name for name in wanted - found.keys() if channels.stream_kind(name) != 0]
    if missing:
        streams.create(*missing)
        found |= _positions(missing)
    return found


def recover(
    requests: Sequence[tuple[str, int, str]],
    limit: int = limits.MAX_RECOVERED_PUBLICATIONS,
    *,
    max_bytes: int = limits.MAX_RECOVERED_BYTES,
    floors: Mapping[str, int] | None = None,
) -> dict[str, Recovered]:
    """
    Read what clients missed since their positions (channel, offset, epoch), many channels at once.

    A channel is either told completely or not at all: not when the epoch is another one, the offset is above the top or
    below the channel's floor, more than ``limit`` publications or (counting all channels in order) ``max_bytes`` were
    missed, or some of them are gone.
    """
    positions = read_positions(name for name, _, _ in requests)
    known = find_missed(positions, {name: (after, epoch) for name, after, epoch in requests}, floors or {})
    ranges = {name: Range(name, after, positions[name].top) for name, after in known.items()}
    found = read_ranges(list(ranges.values()), limit, max_bytes=max_bytes)
    return {
        name: Recovered(position, whole(found, ranges[name]) if name in ranges else None)
        for name, position in positions.items()
    }


def find_missed(
    positions: Mapping[str, Position], requested: Mapping[str, tuple[int, str]], floors: Mapping[str, int]
) -> dict[str, int]:
    """The offsets that clients have in these channels; without those that do not belong to the stream as it is."""
    return {
        name: requested[name][0]
        for name, position in positions.items()
        if requested[name][1] in ("", position.epoch) and floors.get(name, 0) <= requested[name][0] <= position.top
    }


def read_ranges(
    ranges: Sequence[Range], limit: int = limits.MAX_RECOVERED_PUBLICATIONS, *, max_bytes: int
) -> dict[Range, list[Publication]]:
    """Read ranges in the order given, as far as they fit; one of more than ``limit`` publications is not read."""
    asked = [range for range in ranges if 0 < range.upto - range.after <= limit]
    found: dict[Range, list[Publication]] = {}
    for number, publication in _between(asked, max_bytes=max_bytes):
        found.setdefault(asked[number], []).append(publication)
    return found


def whole(found: Mapping[Range, list[Publication]], wanted: Range) -> list[Publication] | None:
    """All of a range, or None: never a part of it."""
    publications = found.get(wanted, [])
    return publications if [p.offset for p in publications] == list(range(wanted.after + 1, wanted.upto + 1)) else None


def newest(name: str, since: tuple[int, str]) -> tuple[Position, list[Publication] | None]:
    """
    Read what a client needs that wants the newest publication only: that one, or nothing if it has it.

    None for the publications: the newest is gone, and the client's position is not the top.
    """
    position = read_positions([name])[name]
    offset, epoch = since
    if offset == position.top and epoch in ("", position.epoch):
        return position, []
    found = [publication for _, publication in _between([(name, position.top - 1, position.top)])]
    return position, found or None


def history(
    name: str,
    *,
    since: int | None = None,
    limit: int = -1,
    reverse: bool = False,
    floor_offset: int = 0,
    newest: int = 0,
    seconds: float = 0,
) -> tuple[list[Publication], Position] | None:
    """
    Read a page of a channel's publications, and where its stream ends; None if there is no such conversation.

    ``since`` is exclusive, in both directions. ``limit`` 0 asks for the position only, -1 for as many as one page
    may hold. What is not above ``floor_offset`` is not shown, nor what is not among the ``newest`` or older than
    ``seconds``, where these are given.
    """
    position = read_positions([name]).get(name)
    if position is None:
        return None
    if limit == 0:
        return [], position
    page = limits.MAX_RECOVERED_PUBLICATIONS if limit < 0 else min(limit, limits.MAX_RECOVERED_PUBLICATIONS)
    if newest:
        floor_offset = max(floor_offset, position.top - newest)
    # The bounds are exclusive below and inclusive above.
    if reverse:
        after, upto = floor_offset, position.top if since is None else min(since - 1, position.top)
    else:
        after, upto = max(floor_offset, since or 0), position.top
    order = "DESC" if reverse else "ASC"
    found = rows(
        f"""SELECT {COLUMNS} FROM {_TABLES}
        WHERE p.stream_id = %s AND p."offset" > %s AND p."offset" <= %s
          AND (%s = 0 OR p.created_at > now() - make_interval(secs => %s)) ORDER BY p."offset" {order} LIMIT %s""",
        [channels.stream_id(name), after, upto, seconds, seconds, page],
    )
    return [publication(row) for row in found], position


def gaps(ranges: Sequence[tuple[str, int, int]]) -> list[Publication]:
    """Read what lies between two offsets (the first exclusive), for many channels; ordered within each channel."""
    return [publication for _, publication in _between(ranges, limit=MAX_GAP_PUBLICATIONS)]


def unseen(snapshot: str | None, tops: Mapping[str, int] | None = None) -> tuple[list[Publication], str]:
    """
    Read the publications that an earlier snapshot could not see, and the present snapshot.

    Transactions commit in another order than they begin, so neither the newest id nor the newest time can tell what one
    has seen; a snapshot can: what began after it, and what was running then. Without an earlier one there is nothing
    unseen. With ``tops``, only what is above the given offsets of the given channels is read: nearly everything has
    arrived by the ordinary way, and is neither fetched nor rendered again.
    """
    if snapshot is None:
        return [], _value("SELECT pg_current_snapshot()::text")
    # The snapshot comes with the rows, in one statement, so that nothing falls between the two.
    found = rows(
        """SELECT pg_current_snapshot()::text, found.* FROM (VALUES (1)) AS always LEFT JOIN (
          SELECT s.channel, min(p."offset") - 1, max(p."offset")
          FROM messaging_publication p JOIN messaging_stream s ON s.id = p.stream_id
          WHERE p.xid >= pg_snapshot_xmax(%s::pg_snapshot)
            OR p.xid = ANY(ARRAY(SELECT pg_snapshot_xip(%s::pg_snapshot)))
          GROUP BY s.channel
        ) AS found ON true""",
        [snapshot, snapshot],
    )
    ranges = [(channel, after, upto) for _, channel, after, upto in found if channel is not None]
    if tops is not None:
        ranges = [(channel, tops[channel], upto) for channel, _, upto in ranges if tops.get(channel, upto) < upto]
    return [publication for _, publication in _between(ranges)], found[0][0]


# --- rows

COLUMNS = f"""s.channel, {streams.WIRE_EPOCH} AS epoch, p."offset", p.kind, p.data, p.subject, p.ref, p.info,
  p.tags::text AS tags, p.message_id, p.created_at AS published_at, p.stream_id, m.id, m.conversation_id, m.seq,
  m.kind AS message_kind, m.sender_id, m.client_id, m.text, m.data::text AS message_data, m.mentions, m.reply_to,
  m.created_at, m.edited_at, m.deleted_at"""
_TABLES = """messaging_publication p JOIN messaging_stream s ON s.id = p.stream_id
  LEFT JOIN messaging_message m ON m.id = p.message_id"""

Row = tuple[Any, ...]


def _positions(names: Iterable[str]) -> dict[str, Position]:
    found = rows(
        f"SELECT s.channel, {streams.WIRE_EPOCH}, s.top FROM messaging_stream s WHERE s.id = ANY(%s::uuid[])",
        [[channels.stream_id(name) for name in names]],
    )
    return {channel: Position(epoch, top) for channel, epoch, top in found}


def _between(
    ranges: Sequence[tuple[str, int, int]], *, limit: int | None = None, max_bytes: int | None = None
) -> Iterator[tuple[int, Publication]]:
    """
    Read ranges of offsets in the order given, as far as they fit into ``limit`` rows or ``max_bytes``.

    With each publication comes the number of its range.
    """
    if not ranges:
        return
    names, after, upto = zip(*ranges, strict=True)
    found = rows(
        f"""SELECT * FROM (
          SELECT {COLUMNS}, r.n, sum(
              200 + coalesce(octet_length(p.data), 0) + coalesce(octet_length(m.text), 0)
              + coalesce(octet_length(m.data::text), 0)
            ) OVER (ORDER BY r.n, p."offset" ROWS UNBOUNDED PRECEDING) AS bytes
          FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS r (id, after, upto, n)
          JOIN messaging_publication p ON p.stream_id = r.id AND p."offset" > r.after AND p."offset" <= r.upto
          JOIN messaging_stream s ON s.id = p.stream_id
          LEFT JOIN messaging_message m ON m.id = p.message_id
        ) AS found WHERE %s::bigint IS NULL OR bytes <= %s ORDER BY n, "offset" LIMIT %s""",
        [[channels.stream_id(name) for name in names], list(after), list(upto), max_bytes, max_bytes, limit],
    )
    for row in found:
        yield row[-2] - 1, publication(row)


def publication(row: Row) -> Publication:
    channel, epoch, offset, kind, data, subject, ref, info, tags, message_id = row[:10]
    return Publication(
        channel=channel,
        offset=offset,
        epoch=epoch,
        kind=kind,
        data=bytes(data) if message_id is None else payloads.about_message(kind, _message_json(row)),
        subject=subject,
        ref=ref,
        info=info and bytes(info),
        tags=tags and json.loads(tags),
    )


def _message_json(row: Row) -> bytes:
    return payloads.to_json(_tombstone(row) if row[12] is None else _message(row[12:]))


def _message(columns: Row) -> payloads.MessagePayload:
    id, conversation, seq, kind, sender, client_id, text, data, mentions, reply_to, created, edited, deleted = columns[
        :13
    ]
    return payloads.MessagePayload(
        id=id,
        conversation=conversation,
        seq=seq,
        kind=kind,
        sender=sender,
        client_id=client_id,
        text=text,
        data=None if data is None else msgspec.Raw(data.encode()),
        mentions=mentions,
        reply_to=reply_to,
        created_at=created,
        edited_at=edited,
        deleted_at=deleted,
    )


def _tombstone(row: Row) -> payloads.MessagePayload:
    """What remains of a message whose row has expired before its publication."""
    published_at: datetime = row[10]
    return payloads.MessagePayload(
        id=row[9],
        conversation=row[11],
        seq=row[2],
        kind="text",
        sender=None,
        client_id="",
        text=None,
        data=None,
        mentions=[],
        reply_to=None,
        created_at=published_at,
        deleted_at=published_at,
    )


def rows(statement: str, parameters: list[Any]) -> list[Row]:
    """What a statement finds."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def _value(statement: str) -> Any:
    return rows(statement, [])[0][0]
