"""A push service on this machine, with TLS, and browsers that decrypt what they are pushed (RFC 8291)."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes
from types import TracebackType
from typing import Any, Self

import http_ece
import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.certificates import make_certificate
from tests.devices import Arrival, Clock, Phone, wrong_with_web

UNCOMPRESSED = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Browser:
    """The keys of one subscription, and what its owner sees."""

    def __init__(self, endpoint: str, clock: Clock | None = None) -> None:
        self.endpoint = endpoint
        self.phone = Phone(clock, is_browser=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._secret = token_bytes(16)

    @property
    def subscription(self) -> str:
        """What its ``PushSubscription.toJSON()`` gives."""
        keys = {
            "p256dh": base64url(self._key.public_key().public_bytes(*UNCOMPRESSED)),
            "auth": base64url(self._secret),
        }
        return json.dumps({"endpoint": self.endpoint, "expirationTime": None, "keys": keys})

    def is_meant(self, received: Received) -> bool:
        """Whether a request came to its endpoint."""
        return self.endpoint.endswith(received.path)

    def read(self, body: bytes) -> Any:
        """Decrypt a push."""
        plain = http_ece.decrypt(body, private_key=self._key, auth_secret=self._secret, version="aes128gcm")
        return json.loads(plain)


@dataclass
class Received:
    """One request, as it came."""

    headers: Mapping[str, str]
    body: bytes
    path: str

    def claims(self, audience: str) -> dict[str, Any]:
        """What its VAPID token says, if the key beside it has signed that for this audience."""
        scheme, _, parameters = self.headers["Authorization"].partition(" ")
        assert scheme == "vapid"
        found = dict(part.strip().split("=", 1) for part in parameters.split(","))
        point = base64.urlsafe_b64decode(found["k"] + "=" * (-len(found["k"]) % 4))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        claims: dict[str, Any] = jwt.decode(found["t"], key, ["ES256"], audience=audience)
        return claims


@dataclass
class PushService:
    """Takes pushes; ``answers`` are given one after the other (status, headers, and a body), then 201."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]] | tuple[int, dict[str, str], str]] = field(default_factory=list)
    _browsers: dict[str, Browser] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        certificate, key = make_certificate(self.folder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self.trust = ssl.create_default_context(cafile=str(certificate))
        application = web.Application()
        application.router.add_post("/push/{id}", self._take)
        self._runner = web.AppRunner(application, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.origin = f"https://localhost:{port}"
        self.address = f"https://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def subscribe(self) -> Browser:
        name = base64url(token_bytes(9))
        self._browsers[name] = Browser(f"{self.origin}/push/{name}", self.clock)
        return self._browsers[name]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.received.append(Received(request.headers.copy(), body, request.path))
        if problem := wrong_with_web(request.headers):
            return web.Response(status=400, text=problem)
        status, headers, *text = self.answers.pop(0) if self.answers else (201, {})
        browser = self._browsers.get(request.match_info["id"])
        if status == 201 and browser:
            arrival = Arrival(
                data=browser.read(body),
                collapse=request.headers.get("Topic", ""),
                expires_at=self.clock() + float(request.headers["TTL"]),
                message=self.received[-1],
            )
            browser.phone.take(arrival)
        return web.Response(status=status, headers=headers, text=text[0] if text else None)
