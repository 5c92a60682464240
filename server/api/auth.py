"""Who calls: the bearer token, checked against the session's row, so that a log-out counts at once."""

from __future__ import annotations

from django.http import HttpRequest

from consumers.tokens import Claims
from models import threads
from models.errors import SessionRevoked, TokenInvalid
from models.queries import admission

from .. import wiring

_PREFIX = "bearer "


async def caller(request: HttpRequest) -> Claims:
    """
    Find who sent a request.

    Raises:
        TokenInvalid, TokenExpired, SessionRevoked
    """
    header = request.headers.get("Authorization", "")
    if not header.lower().startswith(_PREFIX):
        raise TokenInvalid
    claims = wiring.access_tokens().verify(header[len(_PREFIX) :].strip())
    if not await threads.run(admission.is_session_alive, user_id=claims.user, session_id=claims.session):
        raise SessionRevoked
    return claims
