"""
What is on the screens of phones, and should not be there any more because it was read elsewhere.

Called by whoever stores receipts, and by the push outbox; both lock cursors by their ids' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

# At most one push in this time for one conversation on one device: what is written meanwhile goes with the next.
PACE_SECONDS = 3.0
# Apple throttles background pushes beyond two or three an hour.
# https://developer.apple.com/documentation/usernotifications/pushing-background-updates-to-your-app
APPLE_CLEAR_SECONDS = 20 * 60.0
# Who reads one conversation often reads the next: one clear takes both off the screen.
CLEAR_GATHER_SECONDS = 2.0

_EVERYTHING = (1 << 63) - 1


class Read(NamedTuple):
    """Somebody has read a conversation up to ``seq``, on this device if it is known."""

    user: UUID
    conversation: UUID
    seq: int
    device: UUID | None


# Read by somebody: what is on the screens of their other devices goes, and what is on the reading one's is its own
# business. ``reads`` selects who has read what, on which device.
_CLEAR = """
WITH read AS ({reads}), shown AS (
    SELECT c.id, c.device_id, c.user_id, c.provider, c.device_id IS NOT DISTINCT FROM read.device_id AS is_reader
    FROM messaging_pushcursor c JOIN read ON read.user_id = c.user_id AND read.conversation_id = c.conversation_id
    WHERE c.shown_seq > 0 AND c.shown_seq <= read.seq AND c.subject = ''
    ORDER BY c.id FOR UPDATE OF c
), cleared AS (
    UPDATE messaging_pushcursor c SET shown_seq = 0, cleared_at = now(), must_clear = NOT shown.is_reader
    FROM shown WHERE c.id = shown.id
    RETURNING c.device_id, c.user_id, c.provider, shown.is_reader
)
SELECT DISTINCT device_id FROM cleared WHERE NOT is_reader
"""
_SAID = """
SELECT t.user_id, t.conversation_id, t.seq, t.device_id
FROM unnest(%(users)s::uuid[], %(conversations)s::uuid[], %(seqs)s::bigint[], %(devices)s::uuid[])
    AS t (user_id, conversation_id, seq, device_id)
"""
_READ_BY_NOW = """
SELECT m.user_id, m.conversation_id, m.read_seq AS seq, NULL::uuid AS device_id
FROM messaging_member m JOIN messaging_pushcursor p ON p.user_id = m.user_id AND p.conversation_id = m.conversation_id
WHERE p.id = ANY(%(cursors)s)
"""

# Browsers have no silent pushes: they would show something of their own.
_SCHEDULE_CLEARS = f"""
INSERT INTO messaging_pushclear AS k (device_id, user_id, provider, not_before, attempts)
SELECT d.id, d.user_id, coalesce(nullif(d.push_provider, ''), (
        SELECT c.provider FROM messaging_pushcursor c WHERE c.device_id = d.id LIMIT 1
    )), now() + interval '{CLEAR_GATHER_SECONDS} seconds', 0
FROM messaging_device d WHERE d.id = ANY(%s) AND d.platform <> 'web' AND d.target <> ''
ORDER BY d.id
ON CONFLICT (device_id) DO UPDATE SET
    user_id = excluded.user_id, provider = excluded.provider,
    attempts = CASE WHEN k.not_before IS NULL THEN 0 ELSE k.attempts END,
    not_before = coalesce(k.not_before, greatest(excluded.not_before, k.sent_at + make_interval(secs => CASE
        WHEN (SELECT platform FROM messaging_device d WHERE d.id = k.device_id) = 'ios' THEN {APPLE_CLEAR_SECONDS}
        ELSE {PACE_SECONDS}
    END)))
"""


def clear_read(reads: Sequence[Read]) -> None:
    """Take off the screens what was read. Called in the transaction that stores the receipts."""
    if reads:
        users, conversations, seqs, devices = (list(column) for column in zip(*reads, strict=True))
        _clear(_SAID, users=users, conversations=conversations, seqs=seqs, devices=devices)


def clear_what_was_read(cursor_ids: Sequence[UUID]) -> None:
    """Take off the screens what was read while its push was on the way."""
    if cursor_ids:
        _clear(_READ_BY_NOW, cursors=list(cursor_ids))


def clear_all(user: UUID, conversation: UUID) -> None:
    """Take a conversation off the screens of somebody for whom it does not exist any more."""
    clear_read([Read(user, conversation, _EVERYTHING, None)])


def schedule_clears(device_ids: Sequence[UUID]) -> None:
    """Tell these devices soon which notifications to take off their screens."""
    if device_ids:
        with connection.cursor() as cursor:
            cursor.execute(_SCHEDULE_CLEARS, [list(set(device_ids))])


def _clear(reads: str, **values: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_CLEAR.format(reads=reads), values)
        devices = [row[0] for row in cursor.fetchall()]
    schedule_clears(devices)
