"""
What allauth's headless API hands out and accepts: our access and refresh tokens.

``X-Session-Token`` only carries a flow that is not finished (a code was mailed, the person is not logged in yet). It
ends with the log-in and opens nothing: from then on the access token does, as long as its session row lives.
"""

from __future__ import annotations

from typing import Any

import msgspec
from allauth.headless.tokens.strategies.base import AbstractTokenStrategy
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from consumers.tokens import ACCESS_SECONDS, Claims
from models import drafts
from models.device import Device
from models.errors import NotAuthenticated
from models.operations import sessions
from models.operations.sessions import OpenedSession
from models.queries import admission
from models.user import User

from .. import wiring
from . import flow
from .flow import PersonFlow

DEVICE_HEADER = "X-Roost-Device"
_BEARER = "bearer "
_LONGEST_INSTALL_ID = 64
_LONGEST_NAME = 100


class DeviceDetails(msgspec.Struct):
    """What an app may say of itself when it logs in, as JSON in a header; all of it is optional."""

    install_id: str = ""
    platform: str = ""
    name: str = ""


class TokenStrategy(AbstractTokenStrategy):  # type: ignore[misc]
    """Our tokens, for allauth."""

    def get_session_token(self, request: HttpRequest) -> str | None:
        """An access token that is good, else the token of an unfinished flow."""
        token = bearer(request)
        if token and _claims(token):
            return token
        return super().get_session_token(request)  # type: ignore[no-any-return]

    def lookup_session(self, session_token: str) -> SessionBase | None:
        """What allauth knows of the caller; None where the session has ended, or the flow is over."""
        claims = _claims(session_token)
        if claims is None:
            return flow.unfinished(session_token)
        if not admission.is_session_alive(user_id=claims.user, session_id=claims.session):
            return None
        user = User.objects.filter(id=claims.user).first()
        if user is None:
            return None
        session = PersonFlow(claims.session)
        session.begin(user)
        return session

    def create_session_token(self, request: HttpRequest) -> str:
        """The key of an unfinished flow; none for those who have an access token."""
        if request.user.is_authenticated:
            return ""
        if not request.session.session_key:
            request.session.save()
        return request.session.session_key or ""

    def create_access_token_payload(self, request: HttpRequest) -> dict[str, Any] | None:
        """Somebody has just logged in: begin a session on their device, and end the flow that led here."""
        assert isinstance(request.user, User)
        details = _device_details(request)
        opened = sessions.open_session(
            user_id=request.user.id,
            install_id=details.install_id,
            platform=details.platform,
            name=details.name,
        )
        ended, request.session = request.session, PersonFlow(opened.session.id)
        # With how and when they logged in, which later steps ask for.
        request.session.update(ended)
        request.session.begin(request.user)
        ended.delete()
        return token_pair(opened)


def token_pair(opened: OpenedSession) -> dict[str, Any]:
    """What a client gets when a session begins or goes on."""
    row = opened.session
    access_token = wiring.access_tokens().make(user=row.user_id, session=row.id, device=row.device_id)
    return {"access_token": access_token, "refresh_token": opened.refresh_token, "expires_in": ACCESS_SECONDS}


def bearer(request: HttpRequest) -> str | None:
    """The bearer token of a request, if it has one."""
    header = request.headers.get("Authorization", "")
    return header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else None


def _claims(token: str) -> Claims | None:
    try:
        return wiring.access_tokens().verify(token)
    except NotAuthenticated:
        return None


def _device_details(request: HttpRequest) -> DeviceDetails:
    """A header that does not fit is no reason to refuse a log-in; the app can register its device later."""
    try:
        details = msgspec.json.decode(request.headers.get(DEVICE_HEADER, "{}"), type=DeviceDetails)
    except (msgspec.MsgspecError, UnicodeError):
        return DeviceDetails()
    if details.platform not in Device.Platform.values:
        details.platform = ""
    if len(details.install_id) > _LONGEST_INSTALL_ID or not drafts.is_storable(details.install_id):
        details.install_id = ""
    if not drafts.is_storable(details.name):
        details.name = ""
    details.name = details.name[:_LONGEST_NAME]
    return details
