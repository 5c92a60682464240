"""The Django app of the ``server`` package: commands, checks and accounts; it has no tables of its own."""

from django.apps import AppConfig


class ServerConfig(AppConfig):
    name = "server"
    label = "server"
