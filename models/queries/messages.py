"""Reading messages: pages of a history, and single ones. What one may not see does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import QuerySet

from .. import limits, payloads
from ..conversation import Conversation, Member
from ..errors import ConversationNotFound, InvalidInput, MessageNotFound
from ..message import Message
from ..user import User


def history(
    *,
    actor: UUID,
    conversation_id: UUID,
    before: int | None = None,
    after: int | None = None,
    limit: int = limits.DEFAULT_PAGE,
) -> payloads.MessagePage:
    """
    Read the messages next to a seq, or the newest; oldest first in either case.

    ``has_more`` speaks of the direction asked for: older ones, except with ``after``. Deleted messages are tombstones.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        InvalidInput: both ``before`` and ``after``, or a limit below 1.
    """
    floor = _floor(actor, conversation_id)
    if floor is None:
        raise ConversationNotFound
    return page(conversation_id=conversation_id, floor=floor, before=before, after=after, limit=limit)


def page(
    *, conversation_id: UUID, floor: int, before: int | None, after: int | None, limit: int
) -> payloads.MessagePage:
    """
    Read the messages above a seq, for those who may see them.

    Raises:
        InvalidInput: both ``before`` and ``after``, or a limit below 1.
    """
    if (before is not None and after is not None) or limit < 1:
        raise InvalidInput("Give before or after, not both, and a limit from 1.")
    limit = min(limit, limits.MAX_PAGE)
    visible = Message.objects.filter(conversation=conversation_id, seq__gt=max(floor, after or 0))
    if before is not None:
        visible = visible.filter(seq__lt=before)
    rows = list(visible.order_by("-seq" if after is None else "seq")[: limit + 1])
    shown = sorted(rows[:limit], key=lambda row: row.seq)
    return payloads.MessagePage(
        messages=[payloads.message(row) for row in shown],
        users=senders(shown),
        has_more=len(rows) > limit,
    )


def get_message(*, actor: UUID, message_id: UUID) -> payloads.MessagePayload:
    """
    Read one message.

    Raises:
        MessageNotFound: it does not exist, or not for ``actor``.
    """
    return payloads.message(visible(actor, message_id))


def visible(actor: UUID, message_id: UUID) -> Message:
    """
    The row of a message that somebody may read.

    Raises:
        MessageNotFound: it does not exist, or not for ``actor``.
    """
    message = Message.objects.filter(id=message_id).first()
    # A second statement in either case, so that nobody can tell the two apart.
    floor = _floor(actor, message.conversation_id if message else message_id)
    if message is None or floor is None or message.seq <= floor:
        raise MessageNotFound
    return message


def senders(messages: Iterable[Message]) -> dict[UUID, payloads.UserPayload]:
    """Show who wrote these messages; who has deleted the account is shown as that."""
    ids = {message.sender_id for message in messages if message.sender_id}
    users: QuerySet[User] = User.objects.filter(id__in=ids)
    return {id: payloads.deleted_user(id) for id in ids} | {user.id: payloads.user(user) for user in users}


def _floor(actor: UUID, conversation_id: UUID) -> int | None:
    """After which seq somebody may read here; None for not at all. Feeds are read by everyone, from the start."""
    member = (
        Member.objects.filter(conversation=conversation_id, user=actor)
        .values_list("joined_seq", "conversation__kind", "conversation__shows_history_to_new_members")
        .first()
    )
    if member is None:
        is_feed = Conversation.objects.filter(id=conversation_id, kind=Conversation.Kind.FEED).exists()
        return 0 if is_feed else None
    joined_seq, kind, shows_all = member
    return 0 if shows_all or kind == Conversation.Kind.FEED else joined_seq
