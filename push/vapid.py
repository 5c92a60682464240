"""
The deployment's VAPID key (RFC 8292): the private half signs Web Pushes, with the public one browsers subscribe.

Pure, and without the libraries that send: a web process needs the public half as well.
"""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def read_private_key(text: str) -> ec.EllipticCurvePrivateKey:
    """
    Read a private key: PEM, or its 32 bytes in base64url.

    Raises:
        ValueError: it is none.
    """
    try:
        if "-----" in text:
            key: Any = serialization.load_pem_private_key(text.encode(), password=None)
        else:
            number = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            key = ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1()) if len(number) == 32 else None
    except Exception as error:
        raise ValueError("the VAPID key is neither PEM nor 32 bytes in base64url") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the VAPID key is not one of the curve P-256")
    return key


def private_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Write a private key as a setting holds it."""
    return _base64url(key.private_numbers().private_value.to_bytes(32, "big"))


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Write the public half as browsers (``applicationServerKey``) and push services (``k``) take it."""
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return _base64url(point)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
