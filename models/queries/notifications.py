"""Reads of the push outbox: whom a message may wake, and what decides about one push."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from ..deliveries import DueClear, DuePush, Preview, Recipient

# Who was seen within this time is looking, as far as anybody can know.
ACTIVE = timedelta(minutes=1)
# Before every user.
FIRST = UUID(int=0)
# So many messages a notification shows; of the others it says how many there are, counted up to a bound.
MAX_PREVIEWS = 5
MAX_COUNTED = 1_000
# A clear says again what the ones of the last day said: services keep only the last one for a phone that is off.
CLEARS_REACH_BACK = timedelta(days=1)
MAX_CLEARS = 50

# Two tables of one conversation and then the devices: the lateral part keeps the page to an index range scan. Who wants
# no notifications is passed over at once: of a feed's followers that is nearly everybody.
_MEMBERS = """
SELECT user_id, joined_seq FROM messaging_member
WHERE conversation_id = {conversation} AND user_id > %(after)s AND notification_level <> 'none'
ORDER BY user_id
"""
_RECIPIENTS = f"""
SELECT n.id, n.conversation_id, n.seq, m.user_id, d.id, d.push_provider, d.target <> '',
    d.last_seen_at > now() - %(active)s
FROM messaging_notification n
CROSS JOIN LATERAL ({_MEMBERS.format(conversation="n.conversation_id")} LIMIT %(page)s) m
JOIN messaging_device d ON d.user_id = m.user_id
WHERE n.id = ANY(%(ids)s) AND m.user_id IS DISTINCT FROM n.sender_id
    AND (m.joined_seq < n.seq OR n.occasion = 'call')
"""

_END_OF_PAGE = f"""
SELECT user_id FROM ({_MEMBERS.format(conversation="%(conversation)s")}) m OFFSET %(page)s - 1 LIMIT 1
"""

# Each column is named as the field of ``DuePush`` that it becomes. What has ended since the claim, because a worker
# whose lease had run out recorded it, is due no more.
_DUE = """
SELECT c.id, c.push_id, c.subject, c.payload::text, c.attempts, c.leased_until, c.expires_at, c.provider, now() AS now,
    c.first_seq, c.pending_seq, c.sent_seq, c.shown_seq, c.revised_at, c.is_deferred, c.not_before,
    (SELECT count(*) FROM messaging_delivery d
     WHERE d.device_id = c.device_id AND d.created_at > now() - interval '1 minute' AND d.state IN ('sent', 'pending')
    ) AS pushes_in_last_minute,
    c.conversation_id, conversation.kind AS conversation_kind, conversation.title AS conversation_title,
    coalesce(conversation.push_content, '') AS conversation_content,
    message.id AS message_id, message.kind AS message_kind, message.deleted_at AS message_deleted_at,
    message.created_at AS message_created_at,
    coalesce(c.user_id = ANY(message.mentions), false) AS is_mentioned,
    EXISTS (
        SELECT FROM messaging_block b WHERE b.blocker_id = c.user_id
            AND b.blocked_id = coalesce(message.sender_id, (c.payload ->> 'sender')::uuid)
    ) AS is_sender_blocked,
    c.user_id, coalesce(u.is_active, false) AS is_user_active, coalesce(u.time_zone, '') AS time_zone,
    u.quiet_from, u.quiet_until,
    member.joined_seq, member.read_seq, member.muted_until, member.notification_level,
    c.device_id, device.user_id AS device_user_id, coalesce(device.platform, '') AS device_platform,
    coalesce(device.push_provider, '') AS device_provider, coalesce(device.locale, '') AS device_locale,
    coalesce(device.push_content, '') AS device_content, device.last_seen_at AS device_seen_at,
    session.revoked_at IS NOT NULL AS is_session_revoked,
    coalesce(device.target_kind, '') AS target_kind, coalesce(device.target, '') AS target,
    coalesce(device.voip_target, '') AS voip_target, device.push_key AS device_key, receipt.delivered_seq
FROM messaging_pushcursor c
LEFT JOIN messaging_conversation conversation ON conversation.id = c.conversation_id
LEFT JOIN messaging_message message
    ON message.conversation_id = c.conversation_id AND message.seq = c.pending_seq AND c.subject = ''
LEFT JOIN messaging_user u ON u.id = c.user_id
LEFT JOIN messaging_member member ON member.conversation_id = c.conversation_id AND member.user_id = c.user_id
LEFT JOIN messaging_device device ON device.id = c.device_id
LEFT JOIN messaging_session session ON session.device_id = c.device_id
LEFT JOIN messaging_devicereceipt receipt
    ON receipt.device_id = c.device_id AND receipt.conversation_id = c.conversation_id
WHERE c.id = ANY(%s) AND c.push_id IS NOT NULL AND c.not_before IS NOT NULL
ORDER BY c.not_before, c.id
"""

# What somebody may be shown of a conversation: unread, of others whom they have not blocked, and, where the
# conversation is muted or set to mentions, only what mentions them.
_SHOWABLE = """
FROM messaging_message t
WHERE t.conversation_id = c.conversation_id AND t.seq > greatest(m.read_seq, m.joined_seq)
    AND t.sender_id IS DISTINCT FROM c.user_id AND t.kind <> 'system' AND t.deleted_at IS NULL
    AND (c.user_id = ANY(t.mentions)
        OR m.notification_level = 'all' AND (m.muted_until IS NULL OR m.muted_until <= now()))
    AND NOT EXISTS (
        SELECT FROM messaging_block b WHERE b.blocker_id = c.user_id AND b.blocked_id = t.sender_id)
"""
_PREVIEWS = f"""
SELECT c.id, shown.*, unread.count
FROM messaging_pushcursor c
JOIN messaging_member m ON m.conversation_id = c.conversation_id AND m.user_id = c.user_id
CROSS JOIN LATERAL (
    SELECT t.id AS message_id, t.seq, t.sender_id, t.text, t.data ->> 'image' AS image,
        c.user_id = ANY(t.mentions) AS is_mention
    {_SHOWABLE} ORDER BY t.seq DESC LIMIT %(previews)s
) t
LEFT JOIN messaging_user sender ON sender.id = t.sender_id
CROSS JOIN LATERAL (
    SELECT t.message_id, t.seq, t.sender_id, sender.name, sender.data ->> 'avatar', t.text, t.image, t.is_mention
) shown
CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT {_SHOWABLE} LIMIT %(counted)s) counted) unread
WHERE c.id = ANY(%(ids)s) AND c.subject = ''
ORDER BY c.id, t.seq
"""

_CLEARS = """
SELECT d.device_id, array_agg(c.conversation_id ORDER BY c.cleared_at DESC)
FROM unnest(%(devices)s::uuid[]) d (device_id)
CROSS JOIN LATERAL (
    SELECT conversation_id, cleared_at FROM messaging_pushcursor c
    WHERE c.device_id = d.device_id AND c.cleared_at > now() - %(reach)s AND c.shown_seq = 0
    ORDER BY c.cleared_at DESC LIMIT %(most)s
) c
GROUP BY d.device_id
"""

_DUE_CLEARS = """
SELECT k.device_id, k.user_id, k.push_id, k.attempts, k.leased_until, now() AS now, k.provider,
    device.user_id AS device_user_id, coalesce(device.platform, '') AS device_platform,
    coalesce(device.push_provider, '') AS device_provider, session.revoked_at IS NOT NULL AS is_session_revoked,
    coalesce(device.target_kind, '') AS target_kind, coalesce(device.target, '') AS target
FROM messaging_pushclear k
LEFT JOIN messaging_device device ON device.id = k.device_id
LEFT JOIN messaging_session session ON session.device_id = k.device_id
WHERE k.device_id = ANY(%s)
"""

_UNREAD_CONVERSATIONS = """
SELECT m.user_id, count(*)
FROM messaging_member m
WHERE m.user_id = ANY(%s)
    AND m.notification_level <> 'none' AND (m.muted_until IS NULL OR m.muted_until <= now())
    AND EXISTS (
        SELECT FROM messaging_message t
        WHERE t.conversation_id = m.conversation_id AND t.seq > greatest(m.read_seq, m.joined_seq)
            AND t.sender_id IS DISTINCT FROM m.user_id AND t.deleted_at IS NULL AND t.kind <> 'system'
    )
GROUP BY m.user_id
"""


class _Shown(NamedTuple):
    """The part of a cursor's notification that messages make."""

    previews: tuple[Preview, ...]
    unread: int


def recipients(notification_ids: Sequence[UUID], *, after: UUID = FIRST, page: int) -> list[Recipient]:
    """The devices of members other than the sender, of the first ``page`` members after ``after``."""
    values: dict[str, Any] = {"ids": list(notification_ids), "after": after, "page": page, "active": ACTIVE}
    with connection.cursor() as cursor:
        cursor.execute(_RECIPIENTS, values)
        return [Recipient(*row) for row in cursor.fetchall()]


def end_of_page(conversation_id: UUID, *, after: UUID = FIRST, page: int) -> UUID | None:
    """The last member of that page, or None if no member comes after it."""
    with connection.cursor() as cursor:
        cursor.execute(_END_OF_PAGE, {"conversation": conversation_id, "after": after, "page": page})
        row = cursor.fetchone()
    return row[0] if row else None


def due_pushes(cursor_ids: Sequence[UUID]) -> list[DuePush]:
    """Everything that decides about these cursors' pushes; oldest first."""
    shown = _shown(cursor_ids)
    nothing = _Shown((), 0)
    rows = _dictionaries(_DUE, [list(cursor_ids)])
    clears = clears_of([row["device_id"] for row in rows])
    return [
        DuePush(
            **{**row, "payload": json.loads(row["payload"] or "null")},
            previews=shown.get(row["id"], nothing).previews,
            unread=shown.get(row["id"], nothing).unread,
            clears=clears.get(row["device_id"], ()),
        )
        for row in rows
    ]


def due_clears(device_ids: Sequence[UUID]) -> list[DueClear]:
    """Everything that decides about these devices' clears."""
    clears = clears_of(device_ids)
    return [
        DueClear(**row, conversations=clears.get(row["device_id"], ()))
        for row in _dictionaries(_DUE_CLEARS, [list(device_ids)])
    ]


def clears_of(device_ids: Sequence[UUID]) -> dict[UUID, tuple[UUID, ...]]:
    """The conversations whose notifications each device should not show any more, the latest first."""
    values: dict[str, Any] = {"devices": list(set(device_ids)), "reach": CLEARS_REACH_BACK, "most": MAX_CLEARS}
    with connection.cursor() as cursor:
        cursor.execute(_CLEARS, values)
        return {device_id: tuple(conversations) for device_id, conversations in cursor.fetchall()}


def unread_conversations(user_ids: Iterable[UUID]) -> dict[UUID, int]:
    """How many unmuted conversations with unread messages each user has; zero is left out."""
    with connection.cursor() as cursor:
        cursor.execute(_UNREAD_CONVERSATIONS, [list(user_ids)])
        return dict(cursor.fetchall())


def _shown(cursor_ids: Sequence[UUID]) -> dict[UUID, _Shown]:
    previews: defaultdict[UUID, list[Preview]] = defaultdict(list)
    unread: dict[UUID, int] = {}
    values: dict[str, Any] = {"ids": list(cursor_ids), "previews": MAX_PREVIEWS, "counted": MAX_COUNTED}
    with connection.cursor() as cursor:
        cursor.execute(_PREVIEWS, values)
        for cursor_id, *preview, count in cursor.fetchall():
            previews[cursor_id].append(Preview(*preview))
            unread[cursor_id] = count
    return {cursor_id: _Shown(tuple(found), unread[cursor_id]) for cursor_id, found in previews.items()}


def _dictionaries(statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
