"""
Connection and subscription tokens: our own, and those of the app's own backend.

A token of ours names its issuer; every other one is the backend's, if it is configured. Keys are cached, and a key that
cannot be fetched lets nobody in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt.types import Options

from models.errors import TokenExpired, TokenInvalid, Unavailable

from .identity import NEVER, Grant, Identity
from .tokens import ISSUER, AccessTokens

log = logging.getLogger(__name__)

_HMAC = ("HS256", "HS384", "HS512")
_PUBLIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
# A key set is read again after this time, and for an unknown key at most this often.
JWKS_SECONDS = 300.0
JWKS_RETRY_SECONDS = 10.0
FETCH_SECONDS = 5.0
MAX_JWKS_BYTES = 1 << 20


class KeysUnavailable(Unavailable):
    """The keys of the tokens' issuer cannot be fetched."""


class WrongToken(Exception):
    """A good token, but for another user or channel."""


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens of the app's own backend are checked; without a key there is none."""

    hmac_secret: str = ""
    public_key: str = ""
    jwks_url: str = ""
    audience: str = ""
    issuer: str = ""

    @property
    def is_configured(self) -> bool:
        return bool(self.hmac_secret or self.public_key or self.jwks_url)


class Authenticator:
    """Verifies tokens of both kinds."""

    def __init__(self, own: AccessTokens, settings: IssuerSettings) -> None:
        self._own = own
        self._settings = settings
        self._jwks = KeySet(settings.jwks_url) if settings.jwks_url else None

    async def connection(self, token: str) -> Identity:
        """
        Find out whom a connection token speaks for.

        Raises:
            TokenExpired, TokenInvalid, KeysUnavailable
        """
        if not self._settings.is_configured or _unverified_issuer(token) == ISSUER:
            claims = self._own.verify(token)
            return Identity(
                user=str(claims.user),
                person=claims.user,
                session=claims.session,
                device=claims.device,
                expires_at=claims.expires_at,
            )
        payload = await self._verify(token)
        if "channel" in payload:
            raise TokenInvalid
        user = _text(payload, "sub")
        return Identity(
            user=user,
            external_id=user or None,
            expires_at=_expiry(payload),
            info=_json_or_base64(payload, "info"),
            meta=_json(payload.get("meta")),
            channels=_grants(payload),
        )

    async def subscription(self, token: str, user: str, channel: str) -> Grant:
        """
        Find out what a subscription token grants.

        Raises:
            TokenExpired, TokenInvalid, KeysUnavailable
            WrongToken: it is somebody else's, or for another channel.
        """
        if not self._settings.is_configured:
            raise TokenInvalid
        payload = await self._verify(token)
        if not _text(payload, "channel"):
            raise TokenInvalid
        if payload["channel"] != channel or _text(payload, "sub") != user:
            raise WrongToken
        return _grant(payload, _expiry(payload))

    async def _verify(self, token: str) -> dict[str, Any]:
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg", "")
            key, algorithms = await self._key(algorithm, header.get("kid"))
            options: Options = {"verify_aud": bool(settings.audience), "verify_iat": False}
            payload = jwt.decode(
                token,
                key,
                algorithms,
                audience=settings.audience or None,
                issuer=settings.issuer or None,
                options=options,
            )
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            raise TokenExpired from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise TokenInvalid from None
        return payload

    async def _key(self, algorithm: str, key_id: str | None) -> tuple[Any, list[str]]:
        """The key for an algorithm, and which ones it may verify: a public key is never taken for a secret."""
        if algorithm in _HMAC and self._settings.hmac_secret:
            return self._settings.hmac_secret, list(_HMAC)
        if algorithm in _PUBLIC and self._jwks is not None:
            return await self._jwks.key(key_id, algorithm), [algorithm]
        if algorithm in _PUBLIC and self._settings.public_key:
            return self._settings.public_key, list(_PUBLIC)
        raise TokenInvalid


class KeySet:
    """The public keys behind an address, fetched when they are needed, and again when they may have changed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[tuple[str | None, str], Any] = {}
        self._fetched_at = self._tried_at = -NEVER
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None, algorithm: str) -> Any:
        """
        Return a key by its id.

        Raises:
            TokenInvalid: there is none of that id.
            KeysUnavailable: the keys were never fetched.
        """
        found = self._find(key_id, algorithm)
        now = time.monotonic()
        is_old = now - self._fetched_at > JWKS_SECONDS
        if (found is None or is_old) and now - self._tried_at > JWKS_RETRY_SECONDS:
            await self._fetch_once()
            found = self._find(key_id, algorithm)
            is_old = time.monotonic() - self._fetched_at > JWKS_SECONDS
        # A key that may have been withdrawn long ago lets nobody in.
        if is_old:
            raise KeysUnavailable
        if found is None:
            raise TokenInvalid
        return found

    def _find(self, key_id: str | None, algorithm: str) -> Any:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get((key_id, algorithm)) or self._keys.get((key_id, ""))

    async def _fetch_once(self) -> None:
        """Fetch, however many ask at once."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            text = await asyncio.to_thread(_read_url, self._url)
            keys = {}
            for entry in json.loads(text)["keys"]:
                if entry.get("use", "sig") == "sig" and entry.get("kty") != "oct":
                    key = jwt.PyJWK(entry)
                    keys[entry.get("kid"), entry.get("alg", "")] = key.key
        except Exception as error:
            log.warning("the keys of the tokens' issuer cannot be fetched: %s", error)
            return
        self._keys, self._fetched_at = keys, self._tried_at


def _read_url(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise ValueError("an address begins with https:// or http://")
    with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - checked above
        text: bytes = answer.read(MAX_JWKS_BYTES)
    return text


def _unverified_issuer(token: str) -> object:
    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        raise TokenInvalid from None


# --- claims


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name) or ""
    if not isinstance(value, str):
        raise TokenInvalid
    return value


def _expiry(payload: Mapping[str, Any]) -> float:
    """``expire_at`` wins over ``exp``; 0 is never, although the token expires."""
    expire_at = payload.get("expire_at")
    if expire_at is None:
        return float(payload.get("exp") or NEVER)
    if not isinstance(expire_at, int) or expire_at < 0:
        raise TokenInvalid
    return float(expire_at or NEVER)


def _grants(payload: Mapping[str, Any]) -> dict[str, Grant]:
    """The server-side subscriptions that a connection token asks for."""
    names, subs = payload.get("channels") or [], payload.get("subs") or {}
    if not isinstance(names, list) or not isinstance(subs, dict):
        raise TokenInvalid
    if not all(isinstance(name, str) and name for name in (*names, *subs)):
        raise TokenInvalid
    return {name: Grant() for name in names} | {name: _grant(options, NEVER) for name, options in subs.items()}


def _grant(options: Any, expires_at: float) -> Grant:
    if not isinstance(options, dict):
        raise TokenInvalid
    override = options.get("override") or {}
    if not isinstance(override, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("value"), bool) for entry in override.values()
    ):
        raise TokenInvalid
    return Grant(
        info=_json_or_base64(options, "info"),
        data=_json_or_base64(options, "data"),
        expires_at=expires_at,
        override={name: entry["value"] for name, entry in override.items()},
    )


def _json_or_base64(options: Mapping[str, Any], name: str) -> bytes:
    encoded = options.get(f"b64{name}")
    if not encoded:
        return _json(options.get(name))
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise TokenInvalid from None


def _json(value: Any) -> bytes:
    return b"" if value is None else msgspec.json.encode(value)
