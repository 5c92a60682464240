"""`manage.py vapid`: a key for Web Push; the private half is a setting, the public one goes into the app."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management.base import BaseCommand

from push.vapid import private_text, public_text


class Command(BaseCommand):
    """Prints a new pair of keys, in the form that browsers and ``ROOST_VAPID_PRIVATE_KEY`` take."""

    help = "Make a key that signs Web Pushes."

    def handle(self, *args: Any, **options: Any) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.stdout.write(f"ROOST_VAPID_PRIVATE_KEY={private_text(key)}")
        self.stdout.write(f"applicationServerKey for PushManager.subscribe: {public_text(key)}")
