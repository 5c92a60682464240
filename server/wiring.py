"""The one place where the parts are joined: settings to the engine, commits to the doorbell, sockets to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog
from channels.layers import channel_layers
from django.conf import settings
from django.db import Error

from consumers import extensions
from consumers.authentication import Authenticator, IssuerSettings
from consumers.connection import Pace
from consumers.engine import Engine
from consumers.namespaces import Namespaces
from consumers.tokens import AccessTokens
from models import threads
from models.errors import TooBusy, Unavailable
from models.operations import devices
from models.operations.notifications import hasten

from .doorbell import Doorbell
from .env import Env
from .live_devices import LiveDevices
from .presence import RedisPresence

log = structlog.get_logger("wiring")

GONE_SECONDS = 2.0


def build_engine() -> Engine:
    """Make the engine of this process from the settings; whoever calls starts and stops it."""
    env: Env = settings.ROOST
    return Engine(
        dsn=env.database_url,
        authenticator=authenticator(),
        namespaces=Namespaces.parse(env.namespaces),
        make_presence=lambda: RedisPresence(env.redis_url),
        make_devices=lambda: LiveDevices(env.redis_url, on_gone=_gone),
        make_layer=lambda: channel_layers.make_backend("default"),
        pace=Pace(ping=env.ping_seconds, pong=env.pong_seconds, commands=env.commands_per_second),
        make_bell=lambda: Doorbell(env.redis_url),
        require_durable=env.require_durable_database,
        extensions=extensions.load(env.words(env.extensions)),
        is_insecure=env.client_insecure,
    )


async def _gone(device_ids: Sequence[UUID]) -> None:
    """Nobody listens there any more: what waits for these devices to acknowledge it is pushed now."""
    try:
        # Telling Redis who is here must not wait for a database that hangs.
        async with asyncio.timeout(GONE_SECONDS):
            await threads.run(hasten, device_ids)
            await threads.run(devices.note_seen, device_ids)
    except (Error, Unavailable, TooBusy, TimeoutError) as error:
        # They are pushed when their grace ends.
        log.warning("push.not_hastened", devices=len(device_ids), error=type(error).__name__)


def authenticator() -> Authenticator:
    """What verifies tokens: ours, and those of the app's own backend."""
    env: Env = settings.ROOST
    issuer = IssuerSettings(
        hmac_secret=env.token_hmac_secret,
        public_key=env.token_public_key,
        jwks_url=env.token_jwks_url,
        audience=env.token_audience,
        issuer=env.token_issuer,
    )
    return Authenticator(access_tokens(), issuer)


def access_tokens() -> AccessTokens:
    """What makes and verifies access tokens in this deployment."""
    return AccessTokens(settings.ROOST.secret_key)
