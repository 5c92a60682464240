"""Rows for tests, made as plainly as possible; stories about rules use the operations instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from models.device import Device
from models.operations import conversations, messages, sessions
from models.operations.sessions import OpenedSession
from models.payloads import ConversationPayload
from models.user import User
from server import wiring


def make_user(name: str = "Somebody", **fields: Any) -> User:
    """A person with an address of their own and no password."""
    user = User(name=name, email=f"{uuid4().hex}@example.com", **fields)
    user.set_unusable_password()
    user.save()
    return user


def make_session(user: User, install_id: str = "") -> OpenedSession:
    """A log-in on a new device."""
    return sessions.open_session(user_id=user.id, install_id=install_id)


def make_device(user: User, **fields: Any) -> Device:
    """An installed app without a session."""
    return Device.objects.create(user=user, **fields)


def access_token(session: OpenedSession) -> str:
    """The token that opens both doors."""
    row = session.session
    return wiring.access_tokens().make(user=row.user_id, session=row.id, device=row.device_id)


def make_logged_in_user(name: str = "Somebody") -> dict[str, str]:
    """A person with a token, as JSON; for processes that are not ours."""
    user = make_user(name)
    session = make_session(user)
    return {
        "id": str(user.id),
        "name": name,
        "token": access_token(session),
        "device": str(session.session.device_id),
    }


def make_group(owner: User, *others: User, title: str = "Group") -> ConversationPayload:
    """A group of some people."""
    return conversations.create_group(actor=owner.id, title=title, member_ids=[other.id for other in others])


def make_direct(one: User, other: User) -> ConversationPayload:
    """A direct conversation."""
    return conversations.create_direct(actor=one.id, user_id=other.id)


def send(sender: User, conversation: ConversationPayload | UUID, text: str = "Hello", **fields: Any) -> UUID:
    """A message; its id."""
    id = conversation if isinstance(conversation, UUID) else conversation.id
    stored = messages.send_message(actor=sender.id, conversation_id=id, client_id=uuid4().hex, text=text, **fields)
    return stored.id


def send_all(sender: User, conversation: ConversationPayload, texts: Sequence[str]) -> list[UUID]:
    """Several messages; their ids."""
    return [send(sender, conversation, text) for text in texts]
