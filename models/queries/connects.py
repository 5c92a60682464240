"""
Reading what connections begin with: conversations, positions, and what was missed.

Many connections at once cost the few queries that one costs: after a restart everybody comes back together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from .. import channels, limits, streams
from ..events import Publication
from .admission import ALIVE
from .streams import Position, Range, Recovered, find_missed, read_positions, read_ranges, rows, whole

# What is read at once for many; who does not fit in is read alone.
MAX_BYTES_TOGETHER = 4 * limits.MAX_RECOVERED_BYTES


class Wanted(NamedTuple):
    """A connection that wants to begin; ``requested`` has its positions (offset, epoch) by channel."""

    user: UUID
    session: UUID | None = None
    requested: Mapping[str, tuple[int, str]] = {}

    @property
    def most(self) -> int:
        """How many conversations it is subscribed to."""
        return limits.MAX_SUBSCRIBED_CONVERSATIONS if self.requested else limits.INITIAL_SUBSCRIBED_CONVERSATIONS


class Membership(NamedTuple):
    """A conversation that a connection may hear, above ``floor``, as it was in the snapshot of its connect."""

    conversation: UUID
    channel: str
    kind: str
    role: str
    floor: int
    position: Position


class ConnectSnapshot(NamedTuple):
    """
    What a new connection begins with.

    ``memberships`` are to be subscribed, ``others`` only to be known; ``is_cut`` tells that not even ``others`` holds
    all. ``recovered`` has an entry for each requested channel that is subscribed.
    """

    personal: str
    personal_position: Position
    memberships: list[Membership]
    others: list[Membership]
    is_cut: bool
    recovered: dict[str, Recovered]


def connect_snapshots(wanted: Sequence[Wanted]) -> list[ConnectSnapshot | None]:
    """
    Read what connections begin with; None for one whose session has been ended, or whose user may not be here any more.

    First come the conversations of a request that the user still belongs to, then the most recently active.

    Sessions, memberships and positions are one statement, so one snapshot. What was missed is read by a second one, up
    to the first one's tops: publications never change and are never added below a top, so it sees what the first would
    have.
    """
    found = _read(wanted)
    snapshots = [_snapshot(one, rows) for one, rows in zip(wanted, found, strict=True)]
    _recover(wanted, snapshots)
    return snapshots


_SNAPSHOTS = f"""
WITH wanted AS MATERIALIZED (
  SELECT * FROM unnest(%s::uuid[], %s::uuid[]) WITH ORDINALITY AS w (user_id, session_id, n)),
requested AS MATERIALIZED (SELECT * FROM unnest(%s::bigint[], %s::uuid[]) AS r (n, id))
SELECT w.n, 0 AS rank, s.id, s.channel, NULL AS kind, NULL AS role, 0 AS floor, {streams.WIRE_EPOCH} AS epoch, s.top,
  w.session_id IS NULL OR EXISTS (
    SELECT FROM messaging_session e JOIN messaging_user u ON u.id = e.user_id
    WHERE e.id = w.session_id AND e.user_id = w.user_id AND {ALIVE}
  ) AS is_alive
FROM wanted w LEFT JOIN messaging_stream s ON s.id = w.user_id
UNION ALL
SELECT w.n, m.* FROM wanted w CROSS JOIN LATERAL (
  SELECT row_number() OVER (ORDER BY (w.n, s.id) IN (SELECT n, id FROM requested) DESC, s.active_at DESC, s.id) AS rank,
    s.id, s.channel, c.kind, m.role, CASE WHEN c.shows_history_to_new_members THEN 0 ELSE m.joined_seq END,
    {streams.WIRE_EPOCH}, s.top, true
  FROM messaging_member m
  JOIN messaging_conversation c ON c.id = m.conversation_id AND c.kind <> 'feed'
  JOIN messaging_stream s ON s.id = m.conversation_id
  WHERE m.user_id = w.user_id
  ORDER BY rank LIMIT %s
) m
ORDER BY n, rank"""

_Row = tuple[Any, ...]


def _read(wanted: Sequence[Wanted]) -> list[list[_Row]]:
    """The rows of each: its personal channel, then its memberships."""
    requested = [
        (number, id)
        for number, one in enumerate(wanted, 1)
        for name in one.requested
        if (id := channels.conversation_id(name))
    ]
    found: list[list[_Row]] = [[] for _ in wanted]
    for row in rows(
        _SNAPSHOTS,
        [
            [one.user for one in wanted],
            [one.session for one in wanted],
            [number for number, _ in requested],
            [id for _, id in requested],
            limits.MAX_KNOWN_CONVERSATIONS + 1,
        ],
    ):
        found[row[0] - 1].append(row[2:])
    return found


def _snapshot(wanted: Wanted, rows: list[_Row]) -> ConnectSnapshot | None:
    own, *memberships = rows
    *_, epoch, top, is_alive = own
    if not is_alive:
        return None
    personal = channels.personal(wanted.user)
    known = [_membership(row) for row in memberships]
    return ConnectSnapshot(
        personal=personal,
        # Who has no stream yet gets one here.
        personal_position=read_positions([personal])[personal] if own[0] is None else Position(epoch, top),
        memberships=known[: wanted.most],
        others=known[wanted.most : limits.MAX_KNOWN_CONVERSATIONS],
        is_cut=len(known) > limits.MAX_KNOWN_CONVERSATIONS,
        recovered={},
    )


def _membership(row: _Row) -> Membership:
    id, channel, kind, role, floor, epoch, top = row[:7]
    return Membership(id, channel, kind, role, floor, Position(epoch, top))


# --- what was missed


class _Missing(NamedTuple):
    """One connection's requested channels as its snapshot has them, and from where on it wants each."""

    snapshot: ConnectSnapshot
    positions: dict[str, Position]
    known: dict[str, int]

    @property
    def ranges(self) -> list[Range]:
        """What it missed; of an empty range there is nothing to read."""
        return [Range(name, after, self.positions[name].top) for name, after in self.known.items()]


def _recover(wanted: Sequence[Wanted], snapshots: Sequence[ConnectSnapshot | None]) -> None:
    """Fill in what each missed. Those who missed the same share it."""
    missing = [
        _missing(one, snapshot)
        for one, snapshot in zip(wanted, snapshots, strict=True)
        if snapshot is not None and one.requested
    ]
    together = {range for one in missing for range in one.ranges} if len(missing) > 1 else set()
    found = read_ranges(sorted(together), max_bytes=MAX_BYTES_TOGETHER)
    for one in missing:
        mine = found
        if any(whole(found, range) is None for range in one.ranges) or _size(one, found) > limits.MAX_RECOVERED_BYTES:
            # Alone, in the order of its request, as far as the bytes for one go.
            mine = read_ranges(one.ranges, max_bytes=limits.MAX_RECOVERED_BYTES)
        for name, position in one.positions.items():
            after = one.known.get(name)
            told = None if after is None else whole(mine, Range(name, after, position.top))
            one.snapshot.recovered[name] = Recovered(position, told)


def _size(one: _Missing, found: Mapping[Range, list[Publication]]) -> int:
    return sum(len(publication.data) for range in one.ranges for publication in found.get(range, ()))


def _missing(wanted: Wanted, snapshot: ConnectSnapshot) -> _Missing:
    there = {snapshot.personal: snapshot.personal_position} | {m.channel: m.position for m in snapshot.memberships}
    positions = {name: there[name] for name in wanted.requested if name in there}
    floors = {m.channel: m.floor for m in snapshot.memberships}
    return _Missing(snapshot, positions, find_missed(positions, wanted.requested, floors))
