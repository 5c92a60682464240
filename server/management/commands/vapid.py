"""`manage.py vapid`: a key for Web Push; the private half is a setting, the public one goes into the app."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Prints a new pair of keys, in the form that browsers and ``ROOST_VAPID_PRIVATE_KEY`` take."""

    help = "Make a key that signs Web Pushes."

    def handle(self, *args: Any, **options: Any) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_numbers().private_value.to_bytes(32, "big")
        public = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.stdout.write(f"ROOST_VAPID_PRIVATE_KEY={_base64url(private)}")
        self.stdout.write(f"applicationServerKey for PushManager.subscribe: {_base64url(public)}")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
