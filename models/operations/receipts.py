"""Receipts from synchronous code; the websocket's go through the batcher and end in the same statements."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from .. import receipts
from ..conversation import Member
from ..errors import ConversationNotFound


@transaction.atomic
def mark_delivered(*, actor: UUID, device: UUID | None, conversation_id: UUID, seq: int) -> None:
    """
    Note that everything up to ``seq`` has reached this device.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        InvalidInput: ``seq`` can be no seq.
    """
    _check(actor, conversation_id, seq)
    receipts.store([receipts.Receipt(actor, device, conversation_id, delivered=seq)])


@transaction.atomic
def mark_read(*, actor: UUID, device: UUID | None, conversation_id: UUID, seq: int) -> None:
    """
    Note that everything up to ``seq`` has been read, which implies that it has been delivered.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        InvalidInput: ``seq`` can be no seq.
    """
    _check(actor, conversation_id, seq)
    receipts.store([receipts.Receipt(actor, device, conversation_id, delivered=seq, read=seq)])


def _check(actor: UUID, conversation_id: UUID, seq: int) -> None:
    receipts.check_seq(seq)
    if not Member.objects.filter(conversation=conversation_id, user=actor).exists():
        raise ConversationNotFound
