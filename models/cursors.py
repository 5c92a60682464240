"""Cursors of pages: opaque to clients, signed, so that nobody can make one up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TypeVar

import msgspec
from django.conf import settings

from .errors import BadCursor

_SIGNATURE_BYTES = 12
# Longer ones are not ours; checked before anything is computed.
MAX_CHARACTERS = 16_384

Place = TypeVar("Place", bound=msgspec.Struct)


def encode(place: msgspec.Struct) -> str:
    """Turn a place into a cursor."""
    body = msgspec.json.encode(place)
    return base64.urlsafe_b64encode(_sign(type(place), body) + body).decode().rstrip("=")


def decode(cursor: str, kind: type[Place]) -> Place:
    """
    Turn a cursor back into a place.

    Raises:
        BadCursor: it is not one of ours, or of another list.
    """
    try:
        if len(cursor) > MAX_CHARACTERS:
            raise BadCursor
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _sign(kind, body)):
            raise BadCursor
        return msgspec.json.decode(body, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise BadCursor from None


def _sign(kind: type, body: bytes) -> bytes:
    key = hashlib.sha256(f"roost cursor {kind.__module__}.{kind.__qualname__} {settings.SECRET_KEY}".encode()).digest()
    return hmac.new(key, body, hashlib.sha256).digest()[:_SIGNATURE_BYTES]
