"""Who belongs to a conversation, in pages; and which feeds there are."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from django.db.models import Exists, F, OuterRef, Q

from .. import cursors, limits, payloads
from ..conversation import Conversation, Member
from ..errors import ConversationNotFound


class _Place(msgspec.Struct):
    """Where a page of members ended."""

    at: datetime
    id: UUID


class _FeedPlace(msgspec.Struct):
    """Where a page of feeds ended."""

    at: datetime
    id: UUID


def list_members(
    *, actor: UUID, conversation_id: UUID, cursor: str | None = None, limit: int = limits.DEFAULT_PAGE
) -> payloads.MemberPage:
    """
    List the members of a conversation in the order in which they came. A feed shows its owners and admins only.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        BadCursor: it is none of ours.
    """
    own = Member.objects.filter(conversation=conversation_id, user=actor).select_related("conversation").first()
    if own is None:
        raise ConversationNotFound
    limit = max(1, min(limit, limits.MAX_PAGE))
    members = Member.objects.filter(conversation=conversation_id).select_related("user").order_by("joined_at", "id")
    if own.conversation.kind == Conversation.Kind.FEED:
        members = members.filter(role__in=(Member.Role.OWNER, Member.Role.ADMIN))
    if cursor:
        place = cursors.decode(cursor, _Place)
        members = members.filter(Q(joined_at__gt=place.at) | Q(joined_at=place.at, id__gt=place.id))
    rows = list(members[: limit + 1])
    page = rows[:limit]
    return payloads.MemberPage(
        members=[payloads.member(row) for row in page],
        next_cursor=cursors.encode(_Place(page[-1].joined_at, page[-1].id)) if len(rows) > limit else None,
    )


def list_feeds(*, actor: UUID, cursor: str | None = None, limit: int = limits.DEFAULT_PAGE) -> payloads.FeedPage:
    """
    List the feeds that there are, the newest first, with whether the user follows them.

    Raises:
        BadCursor: it is none of ours.
    """
    limit = max(1, min(limit, limits.MAX_PAGE))
    follows = Member.objects.filter(conversation=OuterRef("id"), user=actor)
    feeds = (
        Conversation.objects.filter(kind=Conversation.Kind.FEED)
        .annotate(is_followed=Exists(follows), followers=F("member_count"))
        .order_by("-created_at", "-id")
    )
    if cursor:
        place = cursors.decode(cursor, _FeedPlace)
        feeds = feeds.filter(Q(created_at__lt=place.at) | Q(created_at=place.at, id__lt=place.id))
    rows = list(feeds[: limit + 1])
    page = rows[:limit]
    return payloads.FeedPage(
        feeds=[payloads.feed(row, is_followed=row.is_followed) for row in page],
        next_cursor=cursors.encode(_FeedPlace(page[-1].created_at, page[-1].id)) if len(rows) > limit else None,
    )
