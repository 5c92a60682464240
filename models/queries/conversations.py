"""Conversations as their members see them: lists, single ones, unread counts. A constant number of statements each."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from .. import channels, cursors, limits, payloads
from ..errors import ConversationNotFound
from ..user import User

# What a list and a single conversation have in common; m is the actor's membership.
_SELECT = """
SELECT c.id, c.kind, c.title, c.data::text, c.created_at, c.member_count, s.top, s.active_at, m.role, m.joined_seq,
  m.read_seq, m.delivered_seq, m.muted_until, m.notification_level, m.is_hidden, unread.count,
  CASE WHEN c.kind = 'direct' THEN CASE WHEN c.direct_low = m.user_id THEN c.direct_high ELSE c.direct_low END END,
  last.id, last.seq, last.kind, last.sender_id, last.client_id, last.text, last.data::text, last.mentions,
  last.reply_to, last.created_at, last.edited_at, last.deleted_at, c.push_content
FROM messaging_member m
JOIN messaging_conversation c ON c.id = m.conversation_id
JOIN messaging_stream s ON s.id = c.id
LEFT JOIN LATERAL (
  SELECT * FROM messaging_message x WHERE x.conversation_id = c.id AND x.seq > m.joined_seq ORDER BY x.seq DESC LIMIT 1
) AS last ON true
CROSS JOIN LATERAL (SELECT count(*) FROM ({unread}) AS rows) AS unread
"""
# Others' messages above the read cursor that are not deleted; what happened to a group is not unread mail.
_UNREAD = """
SELECT 1 FROM messaging_message x
WHERE x.conversation_id = m.conversation_id AND x.seq > greatest(m.read_seq, m.joined_seq)
  AND x.sender_id IS DISTINCT FROM m.user_id AND x.deleted_at IS NULL AND x.kind <> 'system' LIMIT %(most)s"""
_SELECT = _SELECT.format(unread=_UNREAD)


def list_conversations(
    *, actor: UUID, cursor: str | None = None, limit: int = limits.DEFAULT_PAGE
) -> payloads.ConversationPage:
    """
    List a user's conversations, newest activity first; hidden ones are left out.

    Raises:
        BadCursor: it is none of ours.
    """
    limit = max(1, min(limit, limits.MAX_PAGE))
    before = cursors.decode(cursor, _Place) if cursor else None
    rows = _rows(
        f"""{_SELECT} WHERE m.user_id = %(actor)s AND NOT m.is_hidden
          AND (%(at)s::timestamptz IS NULL OR (s.active_at, s.id) < (%(at)s, %(id)s::uuid))
        ORDER BY s.active_at DESC, s.id DESC LIMIT %(limit)s""",
        {"actor": actor, "at": before and before.at, "id": before and before.id, "limit": limit + 1},
    )
    page = rows[:limit]
    next_cursor = cursors.encode(_Place(at=page[-1][7], id=page[-1][0])) if len(rows) > limit else None
    return payloads.ConversationPage(
        conversations=_payloads(page), next_cursor=next_cursor, total_unread=total_unread(actor=actor)
    )


def get_conversation(*, actor: UUID, conversation_id: UUID) -> payloads.ConversationPayload:
    """
    Show one conversation to a member.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
    """
    return get_conversations(actor=actor, conversation_ids=[conversation_id], must_exist=True)[0]


def get_conversations(
    *, actor: UUID, conversation_ids: list[UUID], must_exist: bool = False
) -> list[payloads.ConversationPayload]:
    """
    Show several conversations to a member; what is none of theirs is left out.

    Raises:
        ConversationNotFound: with ``must_exist``, one is missing.
    """
    rows = _rows(
        f"{_SELECT} WHERE m.user_id = %(actor)s AND m.conversation_id = ANY(%(ids)s::uuid[])",
        {"actor": actor, "ids": conversation_ids},
    )
    if must_exist and len(rows) < len(conversation_ids):
        raise ConversationNotFound
    return _payloads(rows)


def total_unread(*, actor: UUID) -> int:
    """Count what is unread over all conversations that are not muted, up to a thousand each."""
    rows = _rows(
        f"""SELECT coalesce(sum(unread.count), 0)::bigint FROM messaging_member m
        CROSS JOIN LATERAL (SELECT count(*) FROM ({_UNREAD}) AS rows) AS unread
        WHERE m.user_id = %(actor)s AND NOT m.is_hidden AND (m.muted_until IS NULL OR m.muted_until <= now())
          AND m.notification_level <> 'none'""",
        {"actor": actor},
    )
    return int(rows[0][0])


class _Place(msgspec.Struct):
    """Where a page ended."""

    at: datetime
    id: UUID


def _rows(statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"most": limits.MAX_UNREAD_COUNT, **parameters})
        return list(cursor.fetchall())


def _payloads(rows: list[tuple[Any, ...]]) -> list[payloads.ConversationPayload]:
    others = {row[16] for row in rows if row[16]}
    users = {user.id: payloads.user(user) for user in User.objects.filter(id__in=others)} if others else {}
    return [_payload(row, users) for row in rows]


def _payload(row: tuple[Any, ...], users: dict[UUID, payloads.UserPayload]) -> payloads.ConversationPayload:
    id, kind, title, data, created_at, count, top, _, role, joined, read, delivered, muted, level, hidden, unread = row[
        :16
    ]
    other = row[16]
    return payloads.ConversationPayload(
        id=id,
        kind=kind,
        title=title,
        data=msgspec.Raw(data.encode()),
        created_at=created_at,
        member_count=count,
        channel=channels.of_conversation(kind, id),
        top_seq=top,
        role=role,
        joined_seq=joined,
        read_seq=read,
        delivered_seq=delivered,
        unread=unread,
        muted_until=muted,
        notification_level=level,
        is_hidden=hidden,
        push_content=row[-1],
        last_message=_last_message(id, row[17:-1]),
        other=None if other is None else users.get(other) or payloads.deleted_user(other),
    )


def _last_message(conversation: UUID, row: tuple[Any, ...]) -> payloads.MessagePayload | None:
    if row[0] is None:
        return None
    id, seq, kind, sender, client_id, text, data, mentions, reply_to, created_at, edited_at, deleted_at = row
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
        created_at=created_at,
        edited_at=edited_at,
        deleted_at=deleted_at,
    )
