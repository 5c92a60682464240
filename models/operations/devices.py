"""Installed apps: what they are, and where their pushes go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from .. import drafts, payloads
from ..conversation import DeviceReceipt
from ..deliveries import Content
from ..device import CONTENTS, Device
from ..errors import DeviceNotFound, InvalidInput
from ..subscriptions import WEBPUSH, BadSubscription, read_subscription
from . import sessions

MAX_TARGET_CHARACTERS = 4096
MAX_WORD_CHARACTERS = 100

# A row that somebody else is changing is being seen just now anyway.
_NOTE_SEEN = """
UPDATE messaging_device d SET last_seen_at = now()
FROM (SELECT id FROM messaging_device WHERE id = ANY(%s) FOR NO KEY UPDATE SKIP LOCKED) gone
WHERE d.id = gone.id
"""
# A key of AES-256.
PUSH_KEY_BYTES = 32


@transaction.atomic
def register(
    *,
    actor: UUID,
    device_id: UUID,
    platform: str | None = None,
    push_provider: str | None = None,
    target_kind: str | None = None,
    target: str | None = None,
    locale: str | None = None,
    app_version: str | None = None,
    name: str | None = None,
    push_content: str | None = None,
    push_key: str | None = None,
    voip_target: str | None = None,
) -> payloads.DevicePayload:
    """
    Say what the device one is logged in with is, and where its pushes go; what is not given stays.

    A push target belongs to one device of one user: if another has it, that phone has changed hands, and it is taken
    over.

    ``push_content`` says how much a push may tell, empty for what conversation and deployment say; ``push_key`` is
    what pushes are encrypted with, 32 bytes in base64url, or empty for none any more. ``voip_target`` is an iPhone's
    PushKit token, where calls go if its provider is ``apns``.

    Raises:
        DeviceNotFound: it does not exist, or is somebody else's.
        InvalidInput: there is no such platform or kind of target, something is too long, or the target is no
            subscription although its provider is ``webpush``; the key is none, or there is none to encrypt with.
    """
    device = Device.objects.select_for_update(of=("self",)).filter(id=device_id, user=actor).first()
    if device is None:
        raise DeviceNotFound
    given = {
        "platform": _choice(platform, Device.Platform.values),
        "push_provider": _word(push_provider),
        "target_kind": _choice(target_kind, Device.TargetKind.values),
        "target": _word(target, MAX_TARGET_CHARACTERS),
        "voip_target": _word(voip_target, MAX_TARGET_CHARACTERS),
        "locale": _word(locale, 35),
        "app_version": _word(app_version, 50),
        "name": _word(name),
        "push_content": _choice(push_content, ["", *dict(CONTENTS)]),
    }
    was = (device.push_provider, device.target_kind, device.target)
    for field, value in given.items():
        if value is not None:
            setattr(device, field, value)
    if push_key is not None:
        device.push_key = _key(push_key)
    if device.push_content == Content.ENCRYPTED and not device.push_key:
        raise InvalidInput("Encrypted pushes need a push_key.")
    is_now = (device.push_provider, device.target_kind, device.target)
    if device.push_provider == WEBPUSH and device.target:
        _check_subscription(device.target)
    if is_now != was or target or voip_target:
        # Also the same target again: the app says that it is in use.
        device.target_updated_at = Now()
    if is_now != was:
        _take_over(device)
    if voip_target:
        Device.objects.filter(voip_target=voip_target).exclude(id=device.id).update(voip_target="")
    device.last_seen_at = Now()
    device.save()
    device.refresh_from_db()
    return payloads.device(device)


def ensure(*, user_id: UUID, install_id: str, platform: str = "", name: str = "") -> UUID:
    """Return the device with this ``install_id``, made if there is none: for people whose log-ins are not ours."""
    install_id, name = install_id[:64], name[:MAX_WORD_CHARACTERS]
    found = Device.objects.filter(user=user_id, install_id=install_id)
    known = found.values_list("id", flat=True).first()
    if known is not None:
        return known
    kind = platform if platform in Device.Platform.values else Device.Platform.OTHER
    Device.objects.bulk_create(
        [Device(user_id=user_id, install_id=install_id, platform=kind, name=name)], ignore_conflicts=True
    )
    return found.values_list("id", flat=True).get()


@transaction.atomic
def remove(*, actor: UUID, device_id: UUID) -> None:
    """
    Log a device out and forget it, with its push target.

    Raises:
        DeviceNotFound: it does not exist, or is somebody else's.
    """
    device = Device.objects.select_related("session").filter(id=device_id, user=actor).first()
    if device is None:
        raise DeviceNotFound
    session = getattr(device, "session", None)
    if session is not None:
        sessions.revoke_session(actor=actor, session_id=session.id)
    DeviceReceipt.objects.filter(device=device).delete()
    device.delete()


def note_seen(device_ids: Sequence[UUID]) -> None:
    """These devices have been connected until now: their apps are in use, whoever renews their tokens."""
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_SEEN, [list(device_ids)])


def _take_over(device: Device) -> None:
    if device.target:
        Device.objects.filter(
            push_provider=device.push_provider, target_kind=device.target_kind, target=device.target
        ).exclude(id=device.id).update(target="", voip_target="", target_updated_at=Now())


def _choice(value: str | None, choices: list[str]) -> str | None:
    if value is not None and value not in choices:
        raise InvalidInput(f"One of {', '.join(filter(None, choices))} is expected.")
    return value


def _word(value: str | None, longest: int = MAX_WORD_CHARACTERS) -> str | None:
    if value is not None and (len(value) > longest or not drafts.is_storable(value)):
        raise InvalidInput(f"At most {longest} characters are expected.")
    return value


def _key(text: str) -> bytes | None:
    if not text:
        return None
    try:
        key = base64.b64decode(text.rstrip("=") + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != PUSH_KEY_BYTES:
        raise InvalidInput(f"A push_key is {PUSH_KEY_BYTES} bytes in base64url.")
    return key


def _check_subscription(target: str) -> None:
    try:
        read_subscription(target)
    except BadSubscription as error:
        raise InvalidInput(str(error)) from None
