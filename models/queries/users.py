"""Reading people: oneself, others, who is blocked, devices and sessions."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from .. import limits, payloads
from ..device import Device, Session
from ..errors import InvalidInput, UserNotFound
from ..user import Block, User


def me(*, actor: UUID) -> payloads.MePayload:
    """
    Show a user to themselves.

    Raises:
        UserNotFound: the account is gone.
    """
    user = User.objects.filter(id=actor).first()
    if user is None:
        raise UserNotFound
    return payloads.me(user)


def get_user(*, actor: UUID, user_id: UUID) -> payloads.UserPayload:
    """Show a person to another; who is gone, or never was, is a deleted user."""
    return get_users([user_id])[user_id]


def get_users(ids: Iterable[UUID]) -> dict[UUID, payloads.UserPayload]:
    """Show several people, by one statement."""
    wanted = list(ids)
    return {id: payloads.deleted_user(id) for id in wanted} | {
        user.id: payloads.user(user) for user in User.objects.filter(id__in=wanted)
    }


def search(*, actor: UUID, q: str) -> payloads.UserPage:
    """
    Find people whose name, or a word of it, begins with ``q``, whatever its case.

    Raises:
        InvalidInput: it is empty or too long.
    """
    query = q.strip()
    if not 1 <= len(query) <= limits.MAX_NAME_CHARACTERS or "\0" in query:
        raise InvalidInput(f"A search has 1 to {limits.MAX_NAME_CHARACTERS} characters.")
    found = (
        User.objects.filter(is_active=True)
        .extra(
            where=["lower(name) LIKE %s OR lower(name) LIKE %s"],
            params=[f"{_escaped(query.lower())}%", f"% {_escaped(query.lower())}%"],
        )
        .exclude(id=actor)
        .order_by("name", "id")[: limits.MAX_SEARCH_RESULTS]
    )
    return payloads.UserPage(users=[payloads.user(user) for user in found])


def blocks(*, actor: UUID) -> payloads.UserPage:
    """List whom a user has blocked."""
    found = Block.objects.filter(blocker=actor).select_related("blocked").order_by("-created_at")
    return payloads.UserPage(users=[payloads.user(block.blocked) for block in found])


def devices(*, actor: UUID) -> payloads.DevicePage:
    """List a user's devices, the one seen last first."""
    found = Device.objects.filter(user=actor).order_by("-last_seen_at", "id")
    return payloads.DevicePage(devices=[payloads.device(device) for device in found])


def sessions(*, actor: UUID, current: UUID | None) -> payloads.SessionPage:
    """List a user's sessions that have not ended, the newest first."""
    found = Session.objects.filter(user=actor, revoked_at__isnull=True).select_related("device").order_by("-created_at")
    return payloads.SessionPage(
        sessions=[payloads.session(session, is_current=session.id == current) for session in found]
    )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
