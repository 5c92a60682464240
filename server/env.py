"""Typed reading of environment variables; nothing else in the project touches ``os.environ``.

Every missing or malformed variable is reported in one message at start. Each field's description stands,
word for word, in ``.env.example`` and ``docs/settings.md``; a test compares the three.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from consumers.namespaces import BadNamespaces, Namespaces
from push import vapid

DEVELOPMENT_SECRET = "development-only-secret-key-that-production-refuses-to-start-with"  # noqa: S105 - refused in production
SECRET_CHARACTERS = 50
# What others choose (a token's secret, an API key) has at least this many.
SECRET_BYTES = 32
# As Django's own check has it: fewer different characters are no random text.
SECRET_DISTINCT = 5
BUILT_IN_PROVIDERS = frozenset({"console", "fcm", "apns", "webpush", "memory"})
ROOT = Path(__file__).resolve().parent.parent
# `make run` leaves the addresses of the servers it started in the first one, for commands beside it; the second wins.
# Tests read neither (`ROOST_WITHOUT_FILES`): what a developer keeps there must not reach them.
FILES = (ROOT / ".roost" / "env", ROOT / ".env")


class Env(BaseSettings):
    """The whole configuration of a process. Field ``x`` is the variable ``ROOST_X`` unless it has an alias."""

    # A variable that is set to nothing is unset: `.env.example` and compose files leave many empty.
    model_config = SettingsConfigDict(env_prefix="ROOST_", env_ignore_empty=True, extra="ignore", frozen=True)

    # --- where it runs
    env: Literal["development", "production"] = Field(
        "development", description="`production` refuses to start with unsafe defaults."
    )
    secret_key: str = Field(
        DEVELOPMENT_SECRET,
        description="Signs tokens and cursors. At least 50 random characters.",
    )
    debug: bool = Field(False, description="Django's debug pages. Never in production.")
    allowed_hosts: str = Field("*", description="Comma-separated host names that HTTP requests may address.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    web_processes: int = Field(1, ge=1, le=64, description="How many web processes share the port.")
    public_url: str = Field(
        "",
        description="Address of this deployment as people see it, for links in mails and pushes.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severity that is logged."
    )

    # --- servers behind it
    database_url: str = Field(
        "",
        validation_alias="DATABASE_URL",
        description="PostgreSQL 16 or later. Empty: an embedded one under `.roost/`.",
    )
    redis_url: str = Field(
        "",
        validation_alias="REDIS_URL",
        description="Redis 7 or Valkey 8 and later. Empty: an embedded one.",
    )
    database_threads: int = Field(
        8,
        ge=1,
        le=64,
        description="Threads, and pooled connections, for queries per process.",
    )
    require_durable_database: bool = Field(
        True,
        description="Refuse to start when fsync, full_page_writes or synchronous_commit is off.",
    )

    # --- sockets
    socket_lane: Literal["picows", "daphne"] = Field(
        "picows", description="What serves websockets; `daphne` is the slower fallback."
    )
    allowed_origins: str = Field(
        "",
        description="Comma-separated origins of browser apps (`https://app.example.com`); the own host is always one.",
    )
    trusted_proxies: str = Field(
        "",
        description="Comma-separated networks whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    drain_seconds: float = Field(
        10.0,
        ge=0,
        le=300,
        description="How long a stopping web process takes to move its clients.",
    )
    max_frame_bytes: int = Field(65536, ge=1024, le=1 << 24, description="Largest websocket message of a client.")
    max_unsent_bytes: int = Field(1 << 20, ge=65536, description="Unsent output per connection; beyond it 3008.")
    max_connections: int = Field(
        50_000,
        ge=1,
        description="Open websockets per process; more are told to return later.",
    )
    compress_websockets: bool = Field(
        False, description="Compress websocket messages (permessage-deflate) for clients that offer it."
    )
    ping_seconds: int = Field(25, ge=1, le=3600, description="Seconds between pings.")
    pong_seconds: int = Field(10, ge=1, le=3600, description="Seconds a client has for its pong.")

    # --- channels of the app's own, and tokens of its own backend
    namespaces: str = Field(
        "", description="JSON from names of namespaces to their options. Empty: only the chat's channels exist."
    )
    token_hmac_secret: str = Field("", description="Secret of the backend's own tokens (HS256, HS384, HS512).")
    token_public_key: str = Field("", description="Public key (PEM) of the backend's own tokens (RS*, ES*, EdDSA).")
    token_jwks_url: str = Field("", description="Address of the key set of the backend's own tokens.")
    token_audience: str = Field("", description="Audience that the backend's own tokens must name.")
    token_issuer: str = Field("", description="Issuer that the backend's own tokens must name.")
    client_insecure: bool = Field(
        False, description="Connect without a token, and do everything in existing namespaces. For experiments only."
    )
    api_key: str = Field("", description="Key of the server API under `/api`. Empty: there is no such API.")

    extensions: str = Field(
        "", description="Comma-separated Python modules of the app's own that register methods and hooks."
    )

    # --- limits
    commands_per_second: float = Field(
        50,
        gt=0,
        description="Commands per connection, sustained; bursts of four times that.",
    )
    http_requests_per_minute: int = Field(600, ge=1, description="HTTP requests per user.")
    http_requests_per_minute_address: int = Field(1200, ge=1, description="HTTP requests per address.")

    # --- messages
    retention_days: int = Field(30, ge=1, description="How far back recovery and sync reach.")

    # --- mail
    email_url: str = Field(
        "",
        description="`smtp://user:password@host:port` (`smtps://` for TLS). Empty: printed.",
    )
    email_from: str = Field("Roost <roost@localhost>", description="Sender of mails.")
    summary_hours: float = Field(
        0,
        ge=0,
        description="Hours without push or connection after which a mail tells of unread messages. 0: never.",
    )

    # --- push
    push_provider: str = Field("console", description="What carries pushes by default.")
    push_providers: str = Field(
        "", description="Comma-separated providers of the deployment's own, each as `package.module:factory`."
    )
    fcm_credentials: str = Field("", description="Path of a service account's JSON file, or the JSON itself.")
    fcm_base_url: str = Field("https://fcm.googleapis.com", description="Address of FCM's HTTP v1 API.")
    apns_key: str = Field("", description="Path of Apple's `.p8` key for token-based pushes, or its text.")
    apns_key_id: str = Field("", description="Id of that key.")
    apns_team_id: str = Field("", description="Id of the developer team that it belongs to.")
    apns_topic: str = Field("", description="Bundle id of the app that pushes go to.")
    apns_base_url: str = Field(
        "https://api.push.apple.com",
        description="Address of Apple's push service; the sandbox is `https://api.sandbox.push.apple.com`.",
    )
    vapid_private_key: str = Field(
        "", description="Key that signs Web Pushes, as PEM or base64url; `manage.py vapid` makes one."
    )
    vapid_subject: str = Field("", description="Whom push services write to: a `mailto:` or `https:` address.")
    push_grace_seconds: float = Field(
        5.0,
        ge=0,
        description="How long a connected device has to acknowledge before a push.",
    )
    push_active_elsewhere_seconds: float = Field(
        10.0, ge=0, description="How long a device waits whose user was active on another one within the last minute."
    )
    push_link: str = Field(
        "",
        description="Deep link of pushes, with `{conversation}` and `{message}` in it. Empty: the page's address.",
    )
    push_sound: str = Field("default", description="Sound of pushes, as the app has named it.")
    push_stale_days: int = Field(60, ge=1, description="Devices that were not seen for so many days get no pushes.")
    push_forget_days: int = Field(270, ge=1, description="Devices that were not seen for so many days are removed.")
    push_content: Literal["full", "sender", "encrypted", "id_only"] = Field(
        "full", description="How much a push may tell: everything, who wrote, everything to its device alone, or ids."
    )
    push_locales: str = Field(
        "", description="Folder of `.po` files with words of pushes; they come before ours, or add a language."
    )
    push_ttl_seconds: int = Field(86_400 * 7, ge=60, description="Life of a push at the provider.")
    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Where a worker answers Prometheus under `/metrics`, at `ROOST_HOST`. 0: nowhere.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        try:
            Namespaces.parse(self.namespaces)
        except BadNamespaces as error:
            raise ValueError(f"ROOST_NAMESPACES: {error}") from None
        if self.summary_hours and not self.public_url:
            raise ValueError("ROOST_SUMMARY_HOURS needs ROOST_PUBLIC_URL: its mails link to it")
        return self

    @model_validator(mode="after")
    def _has_a_provider(self) -> Self:
        # The names of the deployment's own are known to the worker only, which makes them.
        if self.push_provider not in BUILT_IN_PROVIDERS and not self.push_providers:
            raise ValueError(f"ROOST_PUSH_PROVIDER: one of {', '.join(sorted(BUILT_IN_PROVIDERS))} is expected")
        return self

    @model_validator(mode="after")
    def _signs_pushes(self) -> Self:
        # Told by every process at start, and not first by the page that asks for the public half.
        if self.vapid_private_key:
            try:
                vapid.read_private_key(self.vapid_private_key)
            except ValueError as error:
                raise ValueError(f"ROOST_VAPID_PRIVATE_KEY: {error}") from None
        return self

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.is_production and (unsafe := "; ".join(self._unsafe())):
            raise ValueError(f"not with ROOST_ENV=production: {unsafe}")
        return self

    def _unsafe(self) -> Iterator[str]:
        """What nobody may run in front of users; Django's ``check --deploy`` judges the rest."""
        if self.secret_key == DEVELOPMENT_SECRET:
            yield "ROOST_SECRET_KEY is the one that everybody knows"
        elif len(self.secret_key) < SECRET_CHARACTERS or len(set(self.secret_key)) < SECRET_DISTINCT:
            yield f"ROOST_SECRET_KEY needs {SECRET_CHARACTERS} random characters"
        if self.debug:
            yield "ROOST_DEBUG shows settings and source to strangers"
        if not self.words(self.allowed_hosts) or "*" in self.words(self.allowed_hosts):
            yield "ROOST_ALLOWED_HOSTS has to name the hosts"
        if "*" in self.words(self.allowed_origins):
            yield "ROOST_ALLOWED_ORIGINS has to name the origins"
        if self.client_insecure:
            yield "ROOST_CLIENT_INSECURE lets everybody do everything"
        if self.token_hmac_secret and len(self.token_hmac_secret) < SECRET_BYTES:
            yield f"ROOST_TOKEN_HMAC_SECRET needs {SECRET_BYTES} characters"
        if self.api_key and len(self.api_key) < SECRET_BYTES:
            yield f"ROOST_API_KEY needs {SECRET_BYTES} characters"
        if not self.require_durable_database:
            yield "ROOST_REQUIRE_DURABLE_DATABASE=false loses messages that were acknowledged"
        if self.push_provider == "memory":
            yield "ROOST_PUSH_PROVIDER=memory sends nothing"

    @property
    def is_production(self) -> bool:
        return self.env == "production"

    @staticmethod
    def words(value: str) -> list[str]:
        """Split a comma-separated setting."""
        return [word.strip() for word in value.split(",") if word.strip()]


class BadEnvironment(SystemExit):
    """One message that names every malformed variable."""


@cache
def load() -> Env:
    """
    Read the environment once.

    Raises:
        BadEnvironment: a variable has a value that does not fit.
    """
    try:
        return Env(_env_file=None if "ROOST_WITHOUT_FILES" in os.environ else FILES)
    except ValidationError as error:
        lines = [f"  {_line(problem['loc'], problem['msg'])}" for problem in error.errors()]
        raise BadEnvironment("Settings that do not fit:\n" + "\n".join(lines)) from None


def _line(location: tuple[str | int, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0])
    return f"{name if name.isupper() else f'ROOST_{name.upper()}'}: {message}"
