"""
Pushes that only the app can read: AES-256-GCM with a key that the device has registered.

The format, with test vectors and code for apps, is in ``docs/push-encryption.md``. Pure.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_VERSION = b"\x01"


class NotReadable(Exception):
    """Not sealed with this key and for this push, or changed since."""


def seal(fields: Mapping[str, str], key: bytes, push_id: str, nonce: bytes | None = None) -> str:
    """
    Seal the fields of a push for one device: version, nonce, ciphertext and tag, in base64url without padding.

    The ``push_id`` is bound to it. ``nonce`` is for test vectors only: it must never come twice.
    """
    nonce = nonce or os.urandom(_NONCE_BYTES)
    plain = json.dumps(dict(fields), ensure_ascii=False, separators=(",", ":")).encode()
    sealed = _VERSION + nonce + AESGCM(key).encrypt(nonce, plain, push_id.encode())
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def unseal(sealed: str, key: bytes, push_id: str) -> dict[str, str]:
    """
    What an app does with it.

    Raises:
        NotReadable
    """
    try:
        raw = base64.b64decode(sealed.encode() + b"=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise NotReadable from None
    if raw[:1] != _VERSION or len(raw) < 1 + _NONCE_BYTES + _TAG_BYTES:
        raise NotReadable
    nonce, ciphertext = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
    try:
        fields: dict[str, str] = json.loads(AESGCM(key).decrypt(nonce, ciphertext, push_id.encode()))
    # Whoever has the key may still have sealed what is no JSON.
    except (InvalidTag, ValueError):
        raise NotReadable from None
    return fields
