"""
Where allauth's flows keep what they have to remember between two requests: in sessions of Django's.

Before somebody is logged in, an app carries the key of such a session (``X-Session-Token``). Afterwards the access
token is all that counts: the key follows from the id of our session row, so that nobody else can name it.
"""

from __future__ import annotations

import hmac
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore

from models.user import User

BACKEND = "allauth.account.auth_backends.AuthenticationBackend"
_KEY_CHARACTERS = 40


class PersonFlow(SessionStore):
    """The session, in Django's sense, of a person who is logged in; of one log-in, and found by its id only."""

    def __init__(self, session_id: UUID) -> None:
        self.session_id = session_id
        self._fixed_key = _key(session_id)
        super().__init__(self._fixed_key)

    def begin(self, user: User) -> None:
        """Make it say whose it is, in the words that Django looks for."""
        claims = {
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: BACKEND,
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
        if any(self.get(name) != value for name, value in claims.items()):
            self.update(claims)

    def cycle_key(self) -> None:
        """Keep the key, where Django changes it after a changed password: no client knows it."""
        self.modified = True

    def load(self) -> dict[str, Any]:
        data: dict[str, Any] = super().load()
        # Without a row it would be given a key of its own.
        self._session_key = self._fixed_key
        return data

    def save(self, must_create: bool = False) -> None:
        """Store it, whether its row exists or not."""
        self.create_model_instance(dict(self.items())).save()


def unfinished(key: str) -> SessionBase | None:
    """Find the flow of somebody who is not logged in yet; a key of any other session of Django's opens nothing."""
    session = SessionStore(key)
    return session if session.keys() and SESSION_KEY not in session else None


def _key(session_id: UUID) -> str:
    return hmac.digest(settings.SECRET_KEY.encode(), b"roost flow " + session_id.bytes, "sha256").hex()[
        :_KEY_CHARACTERS
    ]
