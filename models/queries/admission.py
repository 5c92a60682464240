"""Who may hear what: the one answer that subscribing, reading history and connecting ask for."""

from __future__ import annotations

from uuid import UUID

from django.db import connection

from .. import channels


def floor(*, user_id: UUID, channel: str) -> int | None:
    """
    Say from where on a user may read a channel: publications above this offset. None: not at all.

    A conversation that does not exist and one that the user does not belong to take the same single statement.
    """
    if (owner := channels.personal_user_id(channel)) is not None:
        return 0 if owner == user_id else None
    conversation = channels.conversation_id(channel)
    if conversation is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT CASE WHEN c.kind = 'feed' THEN 0 WHEN c.shows_history_to_new_members AND m.id IS NOT NULL THEN 0
                ELSE m.joined_seq END
            FROM messaging_conversation c
            LEFT JOIN messaging_member m ON m.conversation_id = c.id AND m.user_id = %s
            WHERE c.id = %s AND (c.kind = 'feed') = %s""",
            [user_id, conversation, channel.startswith(channels.FEED)],
        )
        row = cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])


def is_session_alive(*, user_id: UUID, session_id: UUID) -> bool:
    """Whether a session may still be used: not revoked, not expired, and its user is active."""
    # Asked by every connection and every request: the ORM would take most of the time that it takes to answer.
    with connection.cursor() as cursor:
        cursor.execute(_ALIVE, [session_id, user_id])
        return cursor.fetchone() is not None


# Of a session ``e`` and its user ``u``.
ALIVE = "u.is_active AND e.revoked_at IS NULL AND e.expires_at > now()"
_ALIVE = f"""SELECT FROM messaging_session e JOIN messaging_user u ON u.id = e.user_id
WHERE e.id = %s AND e.user_id = %s AND {ALIVE}"""
