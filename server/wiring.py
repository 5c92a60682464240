"""The one place where the parts are joined: settings to the engine, commits to the doorbell, sockets to the workers."""

from __future__ import annotations

from channels.layers import channel_layers
from django.conf import settings

from consumers.connection import Pace
from consumers.engine import Engine
from consumers.tokens import AccessTokens

from .doorbell import Doorbell
from .env import Env
from .live_devices import LiveDevices


def build_engine() -> Engine:
    """Make the engine of this process from the settings; whoever calls starts and stops it."""
    env: Env = settings.ROOST
    return Engine(
        dsn=env.database_url,
        tokens=access_tokens(),
        make_devices=lambda: LiveDevices(env.redis_url),
        make_layer=lambda: channel_layers.make_backend("default"),
        pace=Pace(ping=env.ping_seconds, pong=env.pong_seconds, commands=env.commands_per_second),
        make_bell=lambda: Doorbell(env.redis_url),
        require_durable=env.require_durable_database,
    )


def access_tokens() -> AccessTokens:
    """What makes and verifies access tokens in this deployment."""
    return AccessTokens(settings.ROOST.secret_key)
