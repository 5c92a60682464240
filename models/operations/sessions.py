"""
Log-ins: beginning, renewing, ending.

A refresh token names its session and is signed, so that any token a session ever had is known to be one, and an old one
that comes back ends the session. The next token follows from the one before: whoever asks twice gets the same answer.
Only hashes of the last two are kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from .. import channels, limits, streams
from ..conversation import DeviceReceipt
from ..device import Device, Session
from ..errors import SessionNotFound, SessionRevoked, TokenInvalid
from ..events import SessionRevoked as SessionRevokedEvent
from ..ids import new_id

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
def open_session(*, user_id: UUID, install_id: str = "", name: str = "", platform: str = "") -> OpenedSession:
    """
    Begin a session on a device: the one with this ``install_id`` if the user has it, else a new one.

    One device has one session: logging in again on it ends the one before. Beyond ``limits.MAX_DEVICES_PER_USER`` the
    device that was seen longest ago is forgotten, so that nobody is locked out by phones of long ago.
    """
    streams.lock([channels.personal(user_id)])
    device = _device(user_id, install_id)
    if device is None:
        _make_room(user_id)
        kind = platform or Device.Platform.OTHER
        device = Device.objects.create(user_id=user_id, install_id=install_id, name=name, platform=kind)
    else:
        details = {"name": name or device.name, "platform": platform or device.platform}
        Device.objects.filter(id=device.id).update(**details, last_seen_at=Now())
        _end(user_id, Session.objects.filter(device=device, revoked_at__isnull=True))
        Session.objects.filter(device=device).delete()
    session = Session(id=new_id(), user_id=user_id, device=device, expires_at=timezone.now() + SESSION_LIFE)
    token = _sign(session.id, secrets.token_bytes(_NONCE_BYTES))
    session.refresh_hash = _hash(token)
    session.save(force_insert=True)
    return OpenedSession(session, token)


def refresh_session(*, refresh_token: str) -> OpenedSession:
    """
    Exchange a refresh token for the next one.

    The token before the last works for ``GRACE`` and gets the same next token again, for a phone that never saw the
    answer, or asked twice at once. Any other that the session had before has been stolen, by this caller or by the one
    before, and the session ends.

    Raises:
        TokenInvalid: it is none of ours.
        SessionRevoked: its session has ended, now or earlier.
    """
    session_id, nonce = _read(refresh_token)
    opened = _refresh(session_id, _hash(refresh_token), _sign(session_id, _next(session_id, nonce)))
    if opened is None:
        raise SessionRevoked
    return opened


@transaction.atomic
def _refresh(session_id: UUID, used: bytes, next_token: str) -> OpenedSession | None:
    """None if the session has ended; not an exception, because the end of a session has to be committed."""
    user_id = Session.objects.filter(id=session_id).values_list("user_id", flat=True).first()
    if user_id is None:
        return None
    streams.lock([channels.personal(user_id)])
    session = Session.objects.select_for_update(of=("self",)).select_related("user").filter(id=session_id).first()
    if session is None or session.revoked_at or session.expires_at <= timezone.now() or not session.user.is_active:
        return None
    if used == bytes(session.refresh_hash):
        session.previous_hash, session.refresh_hash = used, _hash(next_token)
        session.rotated_at = timezone.now()
        session.expires_at = session.rotated_at + SESSION_LIFE
        session.save(update_fields=["refresh_hash", "previous_hash", "rotated_at", "expires_at"])
        Device.objects.filter(id=session.device_id).update(last_seen_at=session.rotated_at)
    elif used != bytes(session.previous_hash or b"") or timezone.now() - session.rotated_at > GRACE:
        _end(user_id, [session])
        return None
    return OpenedSession(session, next_token)


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
        Device.objects.filter(id=session.device_id).update(target="", voip_target="", target_updated_at=Now())
        streams.append(channels.personal(user_id), SessionRevokedEvent(session=session.id))


def _device(user_id: UUID, install_id: str) -> Device | None:
    return Device.objects.filter(user=user_id, install_id=install_id).first() if install_id else None


def _make_room(user_id: UUID) -> None:
    """Forget devices beyond the limit, those that are logged out before all others; the personal stream is locked."""
    devices = Device.objects.filter(user=user_id).select_related("session")
    by_use = sorted(devices, key=lambda device: (_is_logged_in(device), device.last_seen_at), reverse=True)
    for device in by_use[limits.MAX_DEVICES_PER_USER - 1 :]:
        if _is_logged_in(device):
            _end(user_id, [device.session])
        DeviceReceipt.objects.filter(device=device).delete()
        device.delete()


def _is_logged_in(device: Device) -> bool:
    session = getattr(device, "session", None)
    return session is not None and session.revoked_at is None


# --- refresh tokens: prefix, then the session's id, a nonce and a signature of both, in base64

_NONCE_BYTES = 16
_SIGNATURE_BYTES = 16
_TOKEN_BYTES = 16 + _NONCE_BYTES + _SIGNATURE_BYTES
_TOKEN_CHARACTERS = len(REFRESH_PREFIX) + _TOKEN_BYTES * 4 // 3


def _sign(session_id: UUID, nonce: bytes) -> str:
    body = session_id.bytes + nonce
    return REFRESH_PREFIX + base64.urlsafe_b64encode(body + _mac(b"refresh token", body)).decode()


def _read(token: str) -> tuple[UUID, bytes]:
    try:
        if len(token) != _TOKEN_CHARACTERS or not token.startswith(REFRESH_PREFIX):
            raise TokenInvalid
        raw = base64.b64decode(token.removeprefix(REFRESH_PREFIX), altchars=b"-_", validate=True)
    except ValueError:
        raise TokenInvalid from None
    body, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _mac(b"refresh token", body)):
        raise TokenInvalid
    return UUID(bytes=body[:16]), body[16:]


def _next(session_id: UUID, nonce: bytes) -> bytes:
    # Of a secret, so that nobody who has one token can make the next.
    return _mac(b"next refresh token", session_id.bytes + nonce)[:_NONCE_BYTES]


def _mac(purpose: bytes, body: bytes) -> bytes:
    key = hmac.digest(settings.SECRET_KEY.encode(), b"roost " + purpose, "sha256")
    return hmac.digest(key, body, "sha256")[:_SIGNATURE_BYTES]


def _hash(token: str) -> bytes:
    # Random and long, so a plain hash is enough.
    return hashlib.sha256(token.encode()).digest()
