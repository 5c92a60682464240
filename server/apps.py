"""The Django apps of the ``server`` package: commands, accounts and the admin; no tables of their own."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class ServerConfig(AppConfig):
    name = "server"
    label = "server"

    def ready(self) -> None:
        # Under any ASGI server the first websocket can start the engine.
        from consumers.engine import build_with

        from .wiring import build_engine

        build_with(build_engine)


class RoostAdminConfig(AdminConfig):
    default_site = "server.admin_site.Site"
