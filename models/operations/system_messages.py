"""Messages of kind ``system``: what happened to a group, told where its members read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from .. import payloads, streams
from ..conversation import Conversation
from ..ids import new_id
from ..message import Message


def tell(conversation: Conversation, actor: UUID | None, what: str, **facts: Any) -> int:
    """
    Append a system message and return its seq; the conversation's stream must be locked.

    Its ``data`` is ``{"event": what, …facts}``; ids are text, as in all JSON of ours.
    """
    id = new_id()
    message = Message(
        id=id,
        conversation=conversation,
        kind=Message.Kind.SYSTEM,
        sender_id=actor,
        client_id=f"system:{id}",
        data={"event": what, **{name: str(fact) if isinstance(fact, UUID) else fact for name, fact in facts.items()}},
    )
    return streams.append_message(message, payloads.MessageSent)
