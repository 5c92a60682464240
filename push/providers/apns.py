"""
Apple's own push service, over HTTP/2 with a token that we sign.

https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..payload import Push
from ..retry_after import seconds_of
from . import apple
from .answers import read_object, readable
from .base import NOT_CONNECTED, Outcome, Verdict

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
# Apple refuses tokens older than an hour, and those that are made anew more often than every 20 minutes.
# https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
TOKEN_SECONDS = 50 * 60
MAX_PAYLOAD_BYTES = 4_096
# One connection carries as many requests at once as Apple's settings allow; a second one is there when it is closing.
CONNECTIONS = 2

# What hexadecimal tokens look like; nothing else may become part of an address.
_TARGET = re.compile(r"[0-9a-fA-F]{16,200}")
_REASON = re.compile(r"[A-Za-z]{1,50}")
# https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
_OUR_SETTINGS = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})


@dataclass(frozen=True, kw_only=True)
class ApnsKey:
    """A key for token-based connections: a ``.p8`` file of the developer account, with its id and the team's."""

    private_key: ec.EllipticCurvePrivateKey
    key_id: str
    team_id: str

    @classmethod
    def read(cls, key: str, key_id: str, team_id: str) -> ApnsKey:
        """
        Args:
            key: path of the ``.p8`` file, or its text.

        Raises:
            ValueError: it is no such key, or an id is missing.
            OSError: the file cannot be read.
        """
        text = key if "-----" in key else Path(key).read_text(encoding="utf-8")
        loaded: Any = serialization.load_pem_private_key(text.encode(), password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
            raise ValueError("the key is not one of the curve P-256")
        if not key_id or not team_id:
            raise ValueError("the ids of the key and of the team belong to it")
        return cls(private_key=loaded, key_id=key_id, team_id=team_id)


class ApnsProvider:
    """Sends to Apple's devices without FCM between."""

    name = "apns"

    def __init__(
        self,
        key: ApnsKey,
        topic: str,
        base_url: str,
        *,
        concurrency: int = 64,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            topic: the app's bundle id.
            base_url: address of the service, production's or the sandbox's.
            tls: certificates to believe instead of the system's.

        Raises:
            ValueError: there is no topic.
        """
        if not topic:
            raise ValueError("the topic (the app's bundle id) is missing")
        self.concurrency = concurrency
        self._tokens = Tokens(key)
        self._topic = topic
        self._base_url = base_url.rstrip("/")
        self._tls = tls or ssl.create_default_context()
        self._opened: httpx.AsyncClient | None = None

    async def deliver(self, push: Push) -> Outcome:
        if not _TARGET.fullmatch(push.target):
            return Outcome(Verdict.REJECTED, "bad_target")
        body = wire_json(push)
        if len(body) > MAX_PAYLOAD_BYTES:
            return Outcome(Verdict.TOO_BIG, "too_big")
        headers = {"authorization": self._tokens.header(), **_headers(push, self._topic)}
        try:
            response = await self._client().post(
                f"{self._base_url}/3/device/{push.target}", content=body, headers=headers
            )
        except httpx.TransportError as error:
            return Outcome(Verdict.RETRY, _connection_code(error), answer=type(error).__name__)
        outcome = outcome_of(response.status_code, response.headers, response.content)
        if outcome.code == "403_ExpiredProviderToken":
            self._tokens.forget()
        return replace(outcome, answer=readable(outcome.answer, push))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    def _client(self) -> httpx.AsyncClient:
        # Made in the event loop that uses it. Proxies of the environment are honoured.
        if self._opened is None:
            self._opened = httpx.AsyncClient(
                http2=True,
                verify=self._tls,
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
                follow_redirects=False,
            )
        return self._opened


class Tokens:
    """The provider's token: one for all connections, signed anew every 50 minutes."""

    def __init__(self, key: ApnsKey) -> None:
        self._key = key
        self._header = ""
        self._made_at = 0.0

    def header(self) -> str:
        """The ``authorization`` of a request."""
        now = time.time()
        if not self._header or now - self._made_at >= TOKEN_SECONDS:
            claims = {"iss": self._key.team_id, "iat": int(now)}
            token = jwt.encode(claims, self._key.private_key, "ES256", {"kid": self._key.key_id})
            self._header, self._made_at = f"bearer {token}", now
        return self._header

    def forget(self) -> None:
        """Sign another one next time: this one has expired by Apple's clock."""
        self._header = ""


def wire_json(push: Push) -> bytes:
    """The payload: an alert in Apple's words, and the data beside it; without an alert nothing but data."""
    aps = {"alert": _alert, "background": _background, "voip": _call}[apple.push_type(push)](push)
    return json.dumps({**apple.data_beside(push), "aps": aps}, ensure_ascii=False, separators=(",", ":")).encode()


def outcome_of(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """What an answer means, by its status and Apple's reason."""
    if status == 200:
        return Outcome(Verdict.SENT)
    answer = read_object(body)
    reason = answer.get("reason")
    reason = reason if isinstance(reason, str) and _REASON.fullmatch(reason) else None
    code = f"{status}_{reason}" if reason else f"http_{status}"
    gone_at = _moment(answer.get("timestamp"))
    said = f"HTTP {status}: {reason or 'no reason given'}" + (
        f" since {gone_at:%Y-%m-%d %H:%M:%S} UTC" if gone_at else ""
    )
    if status == 410:
        # Whoever registered after that moment has been seen by Apple since.
        return Outcome(Verdict.TARGET_GONE, code, gone_at=gone_at, answer=said)
    if status == 429 or status >= 500:
        # Too many requests are too many for one device.
        return Outcome(Verdict.RETRY, code, seconds_of(headers), is_about_target=status == 429, answer=said)
    if status in (403, 404, 405) or status < 400 or reason in _OUR_SETTINGS:
        return Outcome(Verdict.PAUSE, code, answer=said)
    return Outcome(Verdict.TOO_BIG if status == 413 else Verdict.REJECTED, code, answer=said)


def _alert(push: Push) -> dict[str, Any]:
    aps = {
        "alert": {"title": push.title, "body": push.body},
        "badge": push.badge,
        "sound": push.sound,
        "category": push.category or None,
        "thread-id": push.thread or None,
        "mutable-content": 1,
        "interruption-level": apple.interruption_level(push),
    }
    return {key: value for key, value in aps.items() if value is not None}


def _background(push: Push) -> dict[str, Any]:
    # With anything else in it, it would be no background push.
    # https://developer.apple.com/documentation/usernotifications/pushing-background-updates-to-your-app
    return {"content-available": 1}


def _call(push: Push) -> dict[str, Any]:
    # The app shows it, by CallKit.
    # https://developer.apple.com/documentation/pushkit/responding-to-voip-notifications-from-pushkit
    return {}


def _headers(push: Push, topic: str) -> dict[str, str]:
    push_type = apple.push_type(push)
    headers = {
        # The same on every try.
        "apns-id": str(push.push_id),
        "apns-topic": f"{topic}.voip" if push_type == "voip" else topic,
        "apns-push-type": push_type,
        "apns-priority": apple.priority(push),
        "apns-expiration": str(int(push.expires_at.timestamp())),
    }
    if push_type == "alert":
        # For all pushes of a conversation: Apple shows one notification for it, and a repeated one once.
        headers["apns-collapse-id"] = push.collapse
    return headers


def _connection_code(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
        return NOT_CONNECTED
    return "timeout" if isinstance(error, httpx.TimeoutException) else "connection_failed"


def _moment(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
