"""
What allauth's headless API hands out and accepts: our access and refresh tokens.

Django's session only carries a flow from one request to the next (a code that was mailed, a password to be confirmed).
Once somebody is logged in it belongs to our session row and is worth nothing after that has ended.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from allauth.headless.internal import sessionkit
from allauth.headless.tokens.strategies.base import AbstractTokenStrategy
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from consumers.tokens import ACCESS_SECONDS
from models.device import Device, Session
from models.errors import NotAuthenticated
from models.operations import sessions
from models.operations.sessions import OpenedSession
from models.queries import admission

from .. import wiring

# Where Django's session keeps whose it is.
SESSION_KEY = "roost_session"
DEVICE_HEADER = "X-Roost-Device"
_BEARER = "Bearer "


class DeviceDetails(msgspec.Struct):
    """What an app may say of itself when it logs in, as JSON in a header; all of it is optional."""

    install_id: str = ""
    platform: str = Device.Platform.OTHER
    name: str = ""


class TokenStrategy(AbstractTokenStrategy):  # type: ignore[misc]
    """Our tokens, for allauth."""

    def get_session_token(self, request: HttpRequest) -> str | None:
        """Find the flow's session: by the token that an unfinished flow was given, or by an access token."""
        token: str | None = super().get_session_token(request)
        if token:
            return token
        authorization = request.headers.get("Authorization", "")
        if not authorization.startswith(_BEARER):
            return None
        try:
            claims = wiring.access_tokens().verify(authorization.removeprefix(_BEARER))
        except NotAuthenticated:
            return None
        return Session.objects.filter(id=claims.session).values_list("flow_key", flat=True).first() or None

    def create_session_token(self, request: HttpRequest) -> str:
        if not request.session.session_key:
            request.session.save()
        key = str(request.session.session_key)
        # Its key changes with the password; the access token has to find it all the same.
        if owner := request.session.get(SESSION_KEY):
            Session.objects.filter(id=owner).exclude(flow_key=key).update(flow_key=key)
        return key

    def lookup_session(self, session_token: str) -> SessionBase | None:
        """Find Django's session; none if our session that it belongs to has ended."""
        if not sessionkit.session_store().exists(session_token):
            return None
        session: SessionBase = sessionkit.session_store(session_token)
        owner = session.get(SESSION_KEY)
        if owner and not admission.is_session_alive(user_id=UUID(session["_auth_user_id"]), session_id=UUID(owner)):
            return None
        return session

    def create_access_token_payload(self, request: HttpRequest) -> dict[str, Any] | None:
        """Somebody has just logged in: begin a session on their device."""
        assert request.user.pk is not None
        details = _device_details(request)
        opened = sessions.open_session(
            user_id=request.user.pk,
            install_id=details.install_id,
            platform=details.platform,
            name=details.name,
            flow_key=self.create_session_token(request),
        )
        request.session[SESSION_KEY] = str(opened.session.id)
        return token_pair(opened)


def token_pair(opened: OpenedSession) -> dict[str, Any]:
    """What a client gets when a session begins or goes on."""
    row = opened.session
    access_token = wiring.access_tokens().make(user=row.user_id, session=row.id, device=row.device_id)
    return {"access_token": access_token, "refresh_token": opened.refresh_token, "expires_in": ACCESS_SECONDS}


def _device_details(request: HttpRequest) -> DeviceDetails:
    """A header that does not fit is no reason to refuse a log-in; the app can register its device later."""
    try:
        details = msgspec.json.decode(request.headers.get(DEVICE_HEADER, "{}"), type=DeviceDetails)
    except msgspec.MsgspecError:
        return DeviceDetails()
    if details.platform not in Device.Platform.values:
        details.platform = Device.Platform.OTHER
    return DeviceDetails(details.install_id[:64], details.platform, details.name[:100])
