"""Reads of the push outbox: whom a message may wake, and what decides about one delivery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from ..deliveries import DueDelivery, Recipient

# Who was seen within this time is looking, as far as anybody can know.
ACTIVE = timedelta(minutes=1)
# Before every user.
FIRST = UUID(int=0)

# Two tables of one conversation and then the devices: the lateral part keeps the page to an index range scan.
_RECIPIENTS = """
SELECT n.id, m.user_id, d.id, d.push_provider, d.target <> '', d.last_seen_at > now() - %(active)s
FROM messaging_notification n
CROSS JOIN LATERAL (
    SELECT user_id, joined_seq FROM messaging_member
    WHERE conversation_id = n.conversation_id AND user_id > %(after)s
    ORDER BY user_id LIMIT %(page)s
) m
JOIN messaging_device d ON d.user_id = m.user_id
WHERE n.id = ANY(%(ids)s) AND m.user_id IS DISTINCT FROM n.sender_id AND m.joined_seq < n.seq
"""

_END_OF_PAGE = """
SELECT user_id FROM messaging_member
WHERE conversation_id = %(conversation)s AND user_id > %(after)s
ORDER BY user_id OFFSET %(page)s - 1 LIMIT 1
"""

# Each column is named as the field of ``DueDelivery`` that it becomes.
_DUE = """
SELECT v.id, v.attempts, v.leased_until, v.expires_at, v.provider, now() AS now,
    n.conversation_id, c.kind AS conversation_kind, c.title AS conversation_title,
    n.message_id, n.seq, message.kind AS message_kind, message.text, message.deleted_at AS message_deleted_at,
    coalesce(v.user_id = ANY(message.mentions), false) AS is_mentioned,
    n.sender_id, sender.name AS sender_name,
    EXISTS (
        SELECT FROM messaging_block b WHERE b.blocker_id = v.user_id AND b.blocked_id = n.sender_id
    ) AS is_sender_blocked,
    v.user_id, coalesce(u.is_active, false) AS is_user_active,
    member.joined_seq, member.read_seq, member.muted_until, member.notification_level,
    v.device_id, device.user_id AS device_user_id, coalesce(device.platform, '') AS device_platform,
    coalesce(device.push_provider, '') AS device_provider, session.revoked_at IS NOT NULL AS is_session_revoked,
    coalesce(device.target_kind, '') AS target_kind, coalesce(device.target, '') AS target, receipt.delivered_seq
FROM messaging_delivery v
JOIN messaging_notification n ON n.id = v.notification_id
LEFT JOIN messaging_conversation c ON c.id = n.conversation_id
LEFT JOIN messaging_message message ON message.id = n.message_id
LEFT JOIN messaging_user sender ON sender.id = n.sender_id
LEFT JOIN messaging_user u ON u.id = v.user_id
LEFT JOIN messaging_member member ON member.conversation_id = n.conversation_id AND member.user_id = v.user_id
LEFT JOIN messaging_device device ON device.id = v.device_id
LEFT JOIN messaging_session session ON session.device_id = v.device_id
LEFT JOIN messaging_devicereceipt receipt
    ON receipt.device_id = v.device_id AND receipt.conversation_id = n.conversation_id
WHERE v.id = ANY(%s)
ORDER BY v.not_before, v.id
"""

_UNREAD_CONVERSATIONS = """
SELECT m.user_id, count(*)
FROM messaging_member m
WHERE m.user_id = ANY(%s)
    AND m.notification_level <> 'none' AND (m.muted_until IS NULL OR m.muted_until <= now())
    AND EXISTS (
        SELECT FROM messaging_message t
        WHERE t.conversation_id = m.conversation_id AND t.seq > greatest(m.read_seq, m.joined_seq)
            AND t.sender_id IS DISTINCT FROM m.user_id AND t.deleted_at IS NULL
    )
GROUP BY m.user_id
"""


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


def due_deliveries(delivery_ids: Iterable[UUID]) -> list[DueDelivery]:
    """Everything that decides about these deliveries, in one snapshot; oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [list(delivery_ids)])
        names = [column.name for column in cursor.description]
        return [DueDelivery(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def unread_conversations(user_ids: Iterable[UUID]) -> dict[UUID, int]:
    """How many unmuted conversations with unread messages each user has; zero is left out."""
    with connection.cursor() as cursor:
        cursor.execute(_UNREAD_CONVERSATIONS, [list(user_ids)])
        return dict(cursor.fetchall())
