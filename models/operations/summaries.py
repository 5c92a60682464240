"""Who has not heard for long of what waits for them: found, and claimed, so that one mail is sent to each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from ..user import User

# Before every user.
FIRST = UUID(int=0)
# People who are looked at by one statement, and mails that it may lead to: neither is long.
PAGE = 2_000
MAX_CLAIMED = 200
# Counting further costs more than the number tells.
MAX_COUNTED = 1_000

# What counts as unread is what may be pushed: of others who are not blocked, in conversations that are not muted, and,
# where only mentions are wanted, mentions. Whoever has no device has never logged in: the address may be anybody's.
# Cursors of pushes are asked as well as deliveries, because these are kept for some days only. In the end each row is
# looked at anew under its lock, so that of two workers one has it.
_CLAIM = """
WITH bounds AS (
    SELECT now() - make_interval(secs => %(hours)s * 3600) AS cutoff
), page AS (
    SELECT id, email, is_active, wants_summaries, summarized_at FROM messaging_user
    WHERE id > %(after)s ORDER BY id LIMIT %(page)s
), away AS (
    SELECT u.id, u.summarized_at FROM page u, bounds
    WHERE u.is_active AND u.wants_summaries AND u.email <> ''
        AND (u.summarized_at IS NULL OR u.summarized_at < cutoff)
        AND EXISTS (SELECT FROM messaging_device d WHERE d.user_id = u.id)
        AND NOT EXISTS (
            SELECT FROM messaging_device d WHERE d.user_id = u.id AND (
                d.last_seen_at > cutoff
                OR EXISTS (SELECT FROM messaging_pushcursor c WHERE c.device_id = d.id AND c.sent_at > cutoff)
                OR EXISTS (
                    SELECT FROM messaging_delivery y
                    WHERE y.device_id = d.id AND y.created_at > cutoff AND y.state = 'sent')))
), unread AS (
    SELECT a.id, sum(waiting.messages)::bigint AS messages, count(*) AS conversations
    FROM away a
    JOIN messaging_member m ON m.user_id = a.id AND NOT m.is_hidden AND m.notification_level <> 'none'
        AND (m.muted_until IS NULL OR m.muted_until <= now())
    JOIN messaging_stream s ON s.id = m.conversation_id AND s.top > greatest(m.read_seq, m.joined_seq)
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages, max(created_at) AS newest,
            (SELECT created_at {unread} ORDER BY t.seq LIMIT 1) AS oldest
        FROM (SELECT created_at {unread} ORDER BY t.seq DESC LIMIT %(counted)s) counted
    ) waiting
    WHERE waiting.messages > 0
    GROUP BY a.id, a.summarized_at
    HAVING min(waiting.oldest) < (SELECT cutoff FROM bounds)
        AND max(waiting.newest) > coalesce(a.summarized_at, '-infinity')
), claimed AS (
    SELECT u.id, u.summarized_at AS summarized_before, unread.messages, unread.conversations
    FROM messaging_user u JOIN unread ON unread.id = u.id CROSS JOIN bounds
    WHERE u.is_active AND u.wants_summaries AND (u.summarized_at IS NULL OR u.summarized_at < cutoff)
    ORDER BY u.id LIMIT %(most)s FOR NO KEY UPDATE OF u SKIP LOCKED
)
UPDATE messaging_user u SET summarized_at = now() FROM claimed c WHERE u.id = c.id
RETURNING u.id, u.email,
    (SELECT d.locale FROM messaging_device d WHERE d.user_id = u.id ORDER BY d.last_seen_at DESC LIMIT 1),
    ARRAY(SELECT d.id FROM messaging_device d WHERE d.user_id = u.id),
    c.messages, c.conversations, u.summarized_at, c.summarized_before
""".replace(
    "{unread}",
    """FROM messaging_message t
            WHERE t.conversation_id = m.conversation_id AND t.seq > greatest(m.read_seq, m.joined_seq)
                AND t.sender_id IS DISTINCT FROM m.user_id AND t.kind <> 'system' AND t.deleted_at IS NULL
                AND (m.notification_level = 'all' OR m.user_id = ANY(t.mentions))
                AND NOT EXISTS (
                    SELECT FROM messaging_block b WHERE b.blocker_id = m.user_id AND b.blocked_id = t.sender_id)""",
)
_END_OF_PAGE = "SELECT id FROM messaging_user WHERE id > %s ORDER BY id OFFSET %s - 1 LIMIT 1"


@dataclass(frozen=True, slots=True)
class Summary:
    """What waits for somebody, claimed at ``claimed_at``. ``locale`` is that of the device they used last."""

    user_id: UUID
    email: str
    locale: str
    device_ids: list[UUID]
    messages: int
    conversations: int
    claimed_at: datetime
    summarized_before: datetime | None


class Claimed(NamedTuple):
    """``after`` is where to go on; None when nobody is left."""

    summaries: list[Summary]
    after: UUID | None


def claim(*, hours: float, after: UUID = FIRST, page: int = PAGE, most: int = MAX_CLAIMED) -> Claimed:
    """
    Claim the mails for people behind ``after`` who have heard nothing for so many hours, and whom something waits for.

    They count as told from now on, whatever becomes of the mail, until ``release``: better none than two.
    """
    values: dict[str, Any] = {"hours": hours, "after": after, "page": page, "most": most, "counted": MAX_COUNTED}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, values)
        summaries = [Summary(*row) for row in cursor.fetchall()]
        if len(summaries) == most:
            # There may be more on this page.
            return Claimed(summaries, max(summary.user_id for summary in summaries))
        cursor.execute(_END_OF_PAGE, [after, page])
        end = cursor.fetchone()
    return Claimed(summaries, end and end[0])


def release(summary: Summary) -> None:
    """Give a claim back: no mail was sent."""
    User.objects.filter(id=summary.user_id, summarized_at=summary.claimed_at).update(
        summarized_at=summary.summarized_before
    )
