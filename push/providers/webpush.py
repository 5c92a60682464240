"""
Web Push (RFC 8030), which UnifiedPush speaks too: encrypted for the browser (RFC 8291), signed by us (VAPID, RFC 8292).

pywebpush encrypts; the POST is ours, because an endpoint is an address that a client chose: only public https
addresses are asked, over the address that was checked, and no redirect is followed.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import aiohttp
import jwt
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from pywebpush import WebPusher, WebPushException
from yarl import URL

from models.deliveries import Kind
from models.subscriptions import BadSubscription, Subscription, read_subscription

from ..breaker import Breaker
from ..payload import Push
from ..retry_after import seconds_of
from ..vapid import public_text, read_private_key
from .answers import read_object, readable
from .base import NOT_CONNECTED, Outcome, Verdict, web_topic

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
# What push services take at least, less what encryption adds. RFC 8291, section 4.
MAX_PLAIN_BYTES = 3_993
# Services refuse tokens that live for more than a day (RFC 8292, section 2); one is made anew at half of its life.
TOKEN_SECONDS = 12 * 3600
# Where a service that is too busy does not say for how long.
QUOTA_SECONDS = 60.0
DNS_SECONDS = 60
MAX_ANSWER_BYTES = 4_096
MAX_SERVICES = 1_000
# RFC 8030, section 7.3: the subscription is there no more.
_GONE = frozenset({404, 410})
# The service does not take our key, or not for this subscription: that is repaired by people, and no fault of it.
_REFUSED = frozenset({401, 403})
# Too many for one subscription, or our key: the service is well.
_ABOUT_SUBSCRIPTION = frozenset({"http_401", "http_403", "http_429"})

Allows = Callable[[str], bool]


class NotPublic(OSError):
    """A name that leads to this machine, or into our network."""


class WebPushProvider:
    """Sends to whatever push service a browser has chosen."""

    name = "webpush"

    def __init__(
        self,
        private_key: str,
        subject: str,
        *,
        concurrency: int = 64,
        allows: Allows | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            private_key: the VAPID key, as PEM or as its 32 bytes in base64url.
            subject: how the services reach whoever runs this, a ``mailto:`` or ``https:`` address.
            allows: says of an IP address whether it may be asked; by default public ones.
            tls: certificates to believe instead of the system's.

        Raises:
            ValueError: the key is none, or the subject is no address.
        """
        self.concurrency = concurrency
        self._tokens = Tokens(private_key, subject)
        self._allows = allows or is_public
        self._tls = tls or ssl.create_default_context()
        self._services = Services(concurrency)
        self._opened: aiohttp.ClientSession | None = None

    async def deliver(self, push: Push) -> Outcome:
        if push.kind is Kind.CLEAR:
            # A browser that is pushed to has to show something.
            return Outcome(Verdict.REJECTED, "no_clears_on_the_web")
        try:
            subscription = read_subscription(push.target)
            body = encrypted(subscription, plain(push))
        except (BadSubscription, WebPushException, ValueError):
            return Outcome(Verdict.REJECTED, "bad_subscription")
        except TooBig:
            return Outcome(Verdict.TOO_BIG, "too_big")
        url = URL(subscription.endpoint)
        if _is_address(url.host or "") and not self._allows(url.host or ""):
            return Outcome(Verdict.REJECTED, "address_not_public")
        headers = {
            "Authorization": self._tokens.header(str(url.origin())),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            # Zero would mean "now or never", which loses it for every phone that sleeps.
            "TTL": str(max(1, push.ttl_seconds)),
            # A revision may have taken the place of an alert that still waits, and has to arrive like it.
            "Urgency": "normal" if push.kind is Kind.REVISION else "high",
            # Of what waits for a browser one is enough: it tells what the others told.
            "Topic": web_topic(push),
        }
        with self._services.slot(str(url.origin())) as service:
            if service is None:
                return Outcome(Verdict.RETRY, "service_paused", is_about_target=True, answer="asked too much of late")
            outcome = await self._post(push, url, body, headers)
            service.heard(outcome)
        # The others' services may be well.
        return replace(outcome, is_about_target=True) if outcome.verdict is Verdict.RETRY else outcome

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _post(self, push: Push, url: URL, body: bytes, headers: Mapping[str, str]) -> Outcome:
        try:
            async with self._session().post(url, data=body, headers=headers, allow_redirects=False) as response:
                outcome = outcome_of(response.status, response.headers)
                if outcome.verdict is Verdict.SENT:
                    return outcome
                answer = answer_of(response.status, await _read(response))
                return replace(outcome, answer=readable(answer, push))
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, NotPublic):
                return Outcome(Verdict.REJECTED, "address_not_public")
            return Outcome(Verdict.RETRY, NOT_CONNECTED, answer=type(error).__name__)
        except aiohttp.ConnectionTimeoutError as error:
            return Outcome(Verdict.RETRY, NOT_CONNECTED, answer=type(error).__name__)
        except TimeoutError as error:
            return Outcome(Verdict.RETRY, "timeout", answer=type(error).__name__)
        except aiohttp.ClientError as error:
            return Outcome(Verdict.RETRY, "connection_failed", answer=type(error).__name__)

    def _session(self) -> aiohttp.ClientSession:
        # Made in the event loop that uses it.
        if self._opened is None:
            connector = aiohttp.TCPConnector(
                limit=self.concurrency,
                ssl=self._tls,
                resolver=CheckedResolver(self._allows),
                ttl_dns_cache=DNS_SECONDS,
            )
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
            # No cookies, and no proxy of the environment: it would do the resolving.
            self._opened = aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._opened


class CheckedResolver(AbstractResolver):
    """Finds addresses of names, and refuses names that lead elsewhere than into the public network."""

    def __init__(self, allows: Allows) -> None:
        self._allows = allows
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        # All of them: which one is taken is not ours to say.
        if not all(self._allows(result["host"]) for result in found):
            raise NotPublic(f"{host} is not public")
        return found

    async def close(self) -> None:
        await self._resolver.close()


@dataclass
class Service:
    """One push service: how much it takes at the moment."""

    breaker: Breaker
    in_flight: int = 0

    def heard(self, outcome: Outcome) -> None:
        """What became of a push."""
        if outcome.verdict is Verdict.RETRY and outcome.code not in _ABOUT_SUBSCRIPTION:
            self.breaker.failed()
        else:
            self.breaker.accepted()


class Services:
    """
    The push services that browsers have chosen, each with a breaker of its own.

    One that is away, or was never there, takes a slot for as long as it does not answer; without this it would take
    those of all the others.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._by_origin: dict[str, Service] = {}

    @contextmanager
    def slot(self, origin: str) -> Iterator[Service | None]:
        """A request's place at a service; None if it may take no more at the moment."""
        service = self._by_origin.get(origin)
        if service is None:
            self._forget_idle()
            service = self._by_origin[origin] = Service(Breaker(self._concurrency))
        if service.in_flight >= service.breaker.slots:
            yield None
            return
        service.in_flight += 1
        try:
            yield service
        finally:
            service.in_flight -= 1

    def _forget_idle(self) -> None:
        # Services are few; who invents thousands of them has them forgotten.
        if len(self._by_origin) >= MAX_SERVICES:
            self._by_origin = {origin: service for origin, service in self._by_origin.items() if service.in_flight}


class Tokens:
    """VAPID tokens, one for each push service; signing is the dearest part of a push."""

    def __init__(self, private_key: str, subject: str) -> None:
        if not subject.startswith(("mailto:", "https:")):
            raise ValueError("the VAPID subject is a mailto: or https: address")
        self._key = read_private_key(private_key)
        self._subject = subject
        self.public_key = public_text(self._key)
        self._by_origin: dict[str, tuple[float, str]] = {}

    def header(self, origin: str) -> str:
        """The ``Authorization`` for one service: its origin is the token's audience."""
        made_at, header = self._by_origin.get(origin, (0.0, ""))
        now = time.time()
        if now - made_at > TOKEN_SECONDS / 2:
            claims = {"aud": origin, "exp": int(now) + TOKEN_SECONDS, "sub": self._subject}
            header = f"vapid t={jwt.encode(claims, self._key, 'ES256')}, k={self.public_key}"
            if len(self._by_origin) >= MAX_SERVICES:
                self._by_origin.clear()
            self._by_origin[origin] = now, header
        return header


class TooBig(Exception):
    """A push is longer than every service takes."""


def plain(push: Push) -> bytes:
    """
    What the service worker gets to read.

    Raises:
        TooBig
    """
    text = json.dumps(push.data, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > MAX_PLAIN_BYTES:
        raise TooBig
    return text


def encrypted(subscription: Subscription, text: bytes) -> bytes:
    """
    Encrypt for one browser.

    Raises:
        ValueError, WebPushException: its keys are none.
    """
    keys = {"p256dh": subscription.keys.p256dh, "auth": subscription.keys.auth}
    body: bytes = WebPusher({"endpoint": subscription.endpoint, "keys": keys}).encode(text)["body"]
    return body


def outcome_of(status: int, headers: Mapping[str, str]) -> Outcome:
    """What an answer means; only a subscription that is there no more is forgotten."""
    if 200 <= status < 300:
        return Outcome(Verdict.SENT)
    code = f"http_{status}"
    if status in _GONE:
        return Outcome(Verdict.TARGET_GONE, code)
    if status == 429:
        return Outcome(Verdict.RETRY, code, seconds_of(headers) or QUOTA_SECONDS)
    if status >= 500 or status == 408 or status in _REFUSED:
        return Outcome(Verdict.RETRY, code, seconds_of(headers))
    return Outcome(Verdict.TOO_BIG if status == 413 else Verdict.REJECTED, code)


def answer_of(status: int, body: bytes) -> str:
    """What a service said, as one line: services have no words in common, so it is whatever is no page."""
    told = [str(value) for value in read_object(body).values() if isinstance(value, str)]
    text = body.decode(errors="replace").strip()
    words = "; ".join(told) or ("" if text.startswith(("<", "{", "[")) else text)
    return f"HTTP {status}: {words}" if words else f"HTTP {status}"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of an answer; what it means is said by the status."""
    try:
        return await response.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, TimeoutError):
        return b""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public network, also one that is wrapped in another."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if wrapped:
            return is_public(str(wrapped))
        # NAT64 (RFC 6052) has the other one in its last four bytes.
        if found in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(found.packed[-4:])))
    return found.is_global and not found.is_multicast


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
