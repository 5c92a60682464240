"""``manage.py serve``: one web process. It shares its port with its siblings and stops cleanly on SIGTERM."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Serve HTTP and websockets in one process."
    # The supervisor checks and migrates once for all processes.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--host", default=settings.ROOST.host)
        parser.add_argument("--port", type=int, default=settings.ROOST.port)

    def handle(self, *args: Any, **options: Any) -> None:
        # Imported here, because it installs the event loop.
        from server.web import serve

        try:
            serve(options["host"], options["port"])
        except OSError as error:
            raise CommandError(f"Cannot listen on {options['host']}:{options['port']}: {error.strerror}.") from error
