"""How allauth's flows touch our accounts: sessions that end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest

from models.errors import SessionNotFound
from models.operations import sessions
from models.user import User

from .strategy import SESSION_KEY


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """allauth's points of extension."""

    def logout(self, request: HttpRequest) -> None:
        """End our session with Django's."""
        session_id = request.session.get(SESSION_KEY)
        if session_id and request.user.pk:
            try:
                sessions.revoke_session(actor=request.user.pk, session_id=UUID(session_id))
            except SessionNotFound:
                pass  # it has ended already
        super().logout(request)

    def set_password(self, user: User, password: str) -> None:
        """A changed password ends all sessions but the one that changed it; a reset one ends all."""
        super().set_password(user, password)
        current = self._current_session()
        sessions.revoke_all(actor=user.pk, except_session=current)

    def _current_session(self) -> UUID | None:
        request: Any = self.request
        session_id = request.session.get(SESSION_KEY) if request and request.user.is_authenticated else None
        return UUID(session_id) if session_id else None
