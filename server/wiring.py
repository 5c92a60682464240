"""The one place where the parts are joined: settings to the engine, commits to the doorbell, sockets to the workers."""

from __future__ import annotations

from channels.layers import channel_layers
from django.conf import settings

from consumers import extensions
from consumers.authentication import Authenticator, IssuerSettings
from consumers.connection import Pace
from consumers.engine import Engine
from consumers.namespaces import Namespaces
from consumers.tokens import AccessTokens

from .doorbell import Doorbell
from .env import Env
from .live_devices import LiveDevices
from .presence import RedisPresence


def build_engine() -> Engine:
    """Make the engine of this process from the settings; whoever calls starts and stops it."""
    env: Env = settings.ROOST
    return Engine(
        dsn=env.database_url,
        authenticator=authenticator(),
        namespaces=Namespaces.parse(env.namespaces),
        make_presence=lambda: RedisPresence(env.redis_url),
        make_devices=lambda: LiveDevices(env.redis_url),
        make_layer=lambda: channel_layers.make_backend("default"),
        pace=Pace(ping=env.ping_seconds, pong=env.pong_seconds, commands=env.commands_per_second),
        make_bell=lambda: Doorbell(env.redis_url),
        require_durable=env.require_durable_database,
        extensions=extensions.load(env.words(env.extensions)),
        is_insecure=env.client_insecure,
    )


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
