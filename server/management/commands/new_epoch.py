"""``manage.py new_epoch``: to be run after a backup was restored."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from models.operations import deployment


class Command(BaseCommand):
    """Tells all clients to load afresh, instead of waiting for messages that the backup does not have."""

    help = "Begin a new epoch, after PostgreSQL was restored from a backup."

    def handle(self, *args: Any, **options: Any) -> None:
        epoch = deployment.new_epoch()
        self.stdout.write(f"The epoch is {epoch}: clients will load afresh when they connect.")
