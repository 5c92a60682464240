"""The Django app of the ``server`` package: commands, checks and accounts; it has no tables of its own."""

from django.apps import AppConfig


class ServerConfig(AppConfig):
    name = "server"
    label = "server"

    def ready(self) -> None:
        # Under any ASGI server the first websocket can start the engine.
        from consumers.engine import build_with

        from .wiring import build_engine

        build_with(build_engine)
