"""A browser's push subscription, as its ``PushSubscription.toJSON()`` gives it. Pure."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

import msgspec

WEBPUSH = "webpush"
# An uncompressed point of P-256, and the secret beside it. RFC 8291, section 3.1 and 3.2.
POINT_BYTES = 65
SECRET_BYTES = 16


class BadSubscription(ValueError):
    """It is none; the text says why."""


class Keys(msgspec.Struct, frozen=True):
    """What a browser's pushes are encrypted with."""

    p256dh: str
    auth: str


class Subscription(msgspec.Struct, frozen=True):
    """Where a browser's pushes go."""

    endpoint: str
    keys: Keys


def read_subscription(text: str) -> Subscription:
    """
    Read a subscription.

    Raises:
        BadSubscription
    """
    try:
        subscription = msgspec.json.decode(text, type=Subscription)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise BadSubscription("A subscription is JSON with endpoint, keys.p256dh and keys.auth.") from None
    try:
        address = urlsplit(subscription.endpoint)
        is_https = address.scheme == "https" and bool(address.hostname) and address.port in (None, *range(1, 65536))
    except ValueError:
        is_https = False
    if not is_https or address.username is not None or not subscription.endpoint.isascii():
        raise BadSubscription("The endpoint of a subscription is an https address.")
    point, secret = _bytes(subscription.keys.p256dh), _bytes(subscription.keys.auth)
    if len(point) != POINT_BYTES or point[0] != 4 or len(secret) != SECRET_BYTES:
        raise BadSubscription("The keys of a subscription are a point of P-256 and 16 bytes, in base64url.")
    return subscription


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return b""
