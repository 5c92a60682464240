"""Ringing the others of a conversation; the call itself is the app's business."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models.functions import Now
from msgspec import json

from .. import drafts, events, limits, streams
from ..conversation import Conversation
from ..deliveries import Occasion
from ..errors import (
    ConversationNotFound,
    DataTooLarge,
    DirectBlocked,
    InvalidInput,
    TooManyRequests,
    TooManyToRing,
    WrongConversationKind,
)
from ..ids import new_id
from ..notification import Notification
from ..user import Block, User


@transaction.atomic
def ring(*, actor: UUID, conversation_id: UUID, call_id: str, data: Any = None) -> None:
    """
    Ring the others of a direct conversation or group: open apps are told at once, phones get a push that lives shortly.

    The same person ringing with the same ``call_id`` again changes nothing.

    Raises:
        InvalidInput, BadText: the ``call_id`` is empty, too long, or cannot be stored; or the data is no JSON.
        DataTooLarge: beyond ``limits.MAX_CALL_DATA_BYTES``.
        ConversationNotFound: it does not exist, or not for ``actor``.
        WrongConversationKind: it is a feed.
        DirectBlocked: one of the two has blocked the other.
        TooManyToRing: the group has more than ``limits.MAX_MEMBERS_TO_RING`` members.
        TooManyRequests: ``actor`` has rung ``limits.MAX_CALLS_A_MINUTE`` times within a minute.
    """
    if not 1 <= len(call_id) <= limits.MAX_CLIENT_ID_CHARACTERS or not drafts.is_storable(call_id):
        raise InvalidInput(f"A call_id has 1 to {limits.MAX_CLIENT_ID_CHARACTERS} characters.")
    value = _checked(data)
    conversation = _conversation(actor, conversation_id)
    is_new = _store(actor, conversation_id, call_id, value)
    if is_new:
        streams.hint(
            conversation.channel,
            events.CallRinging(
                conversation=conversation_id, user=actor, call=call_id, data=value, expires_in=limits.CALL_SECONDS
            ),
        )


def _checked(data: Any) -> Any:
    text = drafts.json_text(data)
    if len(text.encode()) > limits.MAX_CALL_DATA_BYTES:
        raise DataTooLarge(limit=limits.MAX_CALL_DATA_BYTES)
    return json.decode(text) if text else None


def _conversation(actor: UUID, conversation_id: UUID) -> Conversation:
    """Load what ``actor`` may ring; a block is asked again before each push."""
    conversation = Conversation.objects.filter(id=conversation_id, members__user=actor).first()
    if conversation is None:
        raise ConversationNotFound
    if conversation.kind == Conversation.Kind.FEED:
        raise WrongConversationKind
    if conversation.member_count > limits.MAX_MEMBERS_TO_RING:
        raise TooManyToRing(limit=limits.MAX_MEMBERS_TO_RING)
    low, high = conversation.direct_low, conversation.direct_high
    if low and high and Block.between(low, high).exists():
        raise DirectBlocked
    return conversation


def _store(actor: UUID, conversation_id: UUID, call_id: str, data: Any) -> bool:
    """Leave it to the workers; return whether it was not there."""
    id = uuid5(conversation_id, f"call:{actor}:{call_id}")
    if Notification.objects.filter(id=id).exists():
        return False
    lately = Notification.objects.filter(
        sender_id=actor, occasion=Occasion.CALL.value, created_at__gt=Now() - timedelta(minutes=1)
    )
    if lately.count() >= limits.MAX_CALLS_A_MINUTE:
        raise TooManyRequests(retry_after=60.0)
    name = User.objects.filter(id=actor).values_list("name", flat=True).first()
    _, is_new = Notification.objects.get_or_create(
        id=id,
        defaults={
            "occasion": Occasion.CALL.value,
            "conversation_id": conversation_id,
            "message_id": new_id(),
            "seq": 0,
            "sender_id": actor,
            "payload": {"call": call_id, "sender": str(actor), "sender_name": name or "", "data": data},
        },
    )
    return is_new
