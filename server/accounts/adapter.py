"""How allauth's flows touch our accounts: log-outs and new passwords end sessions of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from allauth.account.adapter import DefaultAccountAdapter
from django.db import transaction
from django.http import HttpRequest

from models.errors import SessionNotFound
from models.operations import sessions
from models.user import User

from .flow import PersonFlow


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """allauth's points of extension."""

    def logout(self, request: HttpRequest) -> None:
        """End our session with Django's."""
        session_id = _session_of(request)
        if session_id and isinstance(request.user, User):
            # It may have ended a moment ago, from another device.
            with suppress(SessionNotFound):
                sessions.revoke_session(actor=request.user.id, session_id=session_id)
        super().logout(request)

    @transaction.atomic
    def set_password(self, user: User, password: str) -> None:
        """A changed password ends all sessions but the one that changed it; a reset one ends all."""
        sessions.revoke_all(actor=user.id, except_session=_session_of(self.request))
        user.set_password(password)
        user.save(update_fields=["password"])

    def clean_email(self, email: str) -> str:
        """Addresses are kept in lower case, as the log-in that they are."""
        return str(super().clean_email(email)).lower()


def _session_of(request: Any) -> UUID | None:
    """The session row behind a request of somebody who is logged in."""
    session = getattr(request, "session", None)
    return session.session_id if isinstance(session, PersonFlow) else None
