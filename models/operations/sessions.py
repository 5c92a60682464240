"""Log-ins: beginning, renewing, ending. Only hashes of refresh tokens are kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from .. import channels, streams
from ..device import Device, Session
from ..errors import SessionNotFound, SessionRevoked, TokenInvalid
from ..events import SessionRevoked as SessionRevokedEvent

REFRESH_PREFIX = "rt_"
# A phone that is not used for so long has to log in again.
SESSION_LIFE = timedelta(days=60)
# How long the previous refresh token still works, for a phone that never saw the answer to its refresh.
GRACE = timedelta(seconds=30)


class OpenedSession(NamedTuple):
    """A session with the refresh token that only its device gets to see."""

    session: Session
    refresh_token: str


@transaction.atomic
def open_session(
    *, user_id: UUID, install_id: str = "", name: str = "", platform: str = "other", flow_key: str = ""
) -> OpenedSession:
    """
    Begin a session on a device: the one with this ``install_id`` if the user has it, else a new one.

    One device has one session: logging in again on it ends the one before. ``flow_key`` names the session of the log-in
    flow, so that later steps (changing a password) find it by the access token.
    """
    streams.lock([channels.personal(user_id)])
    device = Device.objects.filter(user=user_id, install_id=install_id).first() if install_id else None
    if device is None:
        device = Device.objects.create(user_id=user_id, install_id=install_id, name=name, platform=platform)
    _end(user_id, Session.objects.filter(device=device, revoked_at__isnull=True))
    Session.objects.filter(device=device).delete()
    token = _new_token()
    session = Session.objects.create(
        user_id=user_id,
        device=device,
        refresh_hash=_hash(token),
        flow_key=flow_key,
        expires_at=timezone.now() + SESSION_LIFE,
    )
    return OpenedSession(session, token)


def refresh_session(*, refresh_token: str) -> OpenedSession:
    """
    Exchange a refresh token for the next one.

    The token before the last works for ``GRACE``, and is answered by a fresh pair. Used later it has been stolen, by
    this caller or by the one before, and the session ends.

    Raises:
        TokenInvalid: it is none of ours.
        SessionRevoked: its session has ended, now or earlier.
    """
    opened = _refresh(_hash(refresh_token))
    if opened is None:
        raise SessionRevoked
    return opened


@transaction.atomic
def _refresh(token_hash: bytes) -> OpenedSession | None:
    """None if the session has ended; not an exception, because the end of a session has to be committed."""
    found = Session.objects.filter(Q(refresh_hash=token_hash) | Q(previous_hash=token_hash)).first()
    if found is None:
        raise TokenInvalid
    streams.lock([channels.personal(found.user_id)])
    session = Session.objects.select_for_update(of=("self",)).select_related("user").filter(id=found.id).first()
    if session is None or session.revoked_at or session.expires_at <= timezone.now() or not session.user.is_active:
        return None
    if bytes(session.refresh_hash) == token_hash:
        session.previous_hash = session.refresh_hash
        session.rotated_at = timezone.now()
    elif session.previous_hash is None or bytes(session.previous_hash) != token_hash:
        return None
    elif timezone.now() - session.rotated_at > GRACE:
        _end(session.user_id, [session])
        return None
    token = _new_token()
    session.refresh_hash = _hash(token)
    session.expires_at = timezone.now() + SESSION_LIFE
    session.save(update_fields=["refresh_hash", "previous_hash", "rotated_at", "expires_at"])
    return OpenedSession(session, token)


@transaction.atomic
def revoke_session(*, actor: UUID, session_id: UUID) -> None:
    """
    End a session; its sockets are closed on every process.

    Raises:
        SessionNotFound: it does not exist, is somebody else's, or has ended.
    """
    streams.lock([channels.personal(actor)])
    session = Session.objects.filter(id=session_id, user=actor, revoked_at__isnull=True).first()
    if session is None:
        raise SessionNotFound
    _end(actor, [session])


@transaction.atomic
def revoke_all(*, actor: UUID, except_session: UUID | None = None) -> None:
    """End all sessions of a user, as after a changed password, but the one that changed it."""
    streams.lock([channels.personal(actor)])
    ended = Session.objects.filter(user=actor, revoked_at__isnull=True)
    _end(actor, ended.exclude(id=except_session) if except_session else ended)


def _end(user_id: UUID, sessions: Iterable[Session]) -> None:
    for session in sessions:
        Session.objects.filter(id=session.id).update(revoked_at=Now())
        # A device that is logged out gets no push either.
        Device.objects.filter(id=session.device_id).update(target="", target_updated_at=Now())
        streams.append(channels.personal(user_id), SessionRevokedEvent(session=session.id))


def _new_token() -> str:
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def _hash(token: str) -> bytes:
    # Random and long, so a plain hash is enough; looked up by equality of hashes, which tells nothing of the token.
    return hashlib.sha256(token.encode()).digest()
