"""``manage.py serve``: one web process. It shares its port with its siblings and drains on SIGTERM."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from server import logs
from server.env import Env


class Command(BaseCommand):
    """Serves HTTP and websockets until SIGTERM or SIGINT."""

    help = "Serve HTTP and websockets in one process."
    # The supervisor checks and migrates once for all processes.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=settings.ROOST.host, help="address to listen on")
        parser.add_argument("--port", type=int, default=settings.ROOST.port, help="port to listen on")
        parser.add_argument(
            "--lane", choices=("picows", "daphne"), default=settings.ROOST.socket_lane, help="what serves websockets"
        )

    def handle(self, *args: Any, host: str, port: int, lane: str, **options: Any) -> None:
        env: Env = settings.ROOST.model_copy(update={"socket_lane": lane})
        logs.configure(level=env.log_level, as_json=env.is_production)
        # The first import makes the event loop, which everything else then finds.
        from server.web import Web  # isort: skip
        from models.writer_connection import UnsafeDatabase
        from server import wiring
        from server.asgi import application
        from server.front import CannotListen

        log = structlog.get_logger("web")
        try:
            engine = wiring.build_engine()
        except ImportError as error:
            raise CommandError(f"ROOST_EXTENSIONS: {error}.") from error
        try:
            web = Web(application, engine, env)
        except ValueError as error:
            raise CommandError(f"ROOST_TRUSTED_PROXIES is not a list of networks: {error}.") from None
        try:
            web.serve(host, port, lambda port: log.info("web.listening", host=host, port=port, lane=lane))
        except (CannotListen, UnsafeDatabase) as error:
            raise CommandError(str(error)) from None
        log.info("web.stopped")
