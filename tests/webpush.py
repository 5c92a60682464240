"""A push service on this machine, with TLS, and browsers that decrypt what they are pushed (RFC 8291)."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_bytes
from types import TracebackType
from typing import Any, Self

import http_ece
import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

UNCOMPRESSED = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Browser:
    """The keys of one subscription."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
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

    def read(self, body: bytes) -> Any:
        """Decrypt a push."""
        plain = http_ece.decrypt(body, private_key=self._key, auth_secret=self._secret, version="aes128gcm")
        return json.loads(plain)


@dataclass
class Received:
    """One request, as it came."""

    headers: Mapping[str, str]
    body: bytes

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
    """Takes pushes; ``answers`` are given one after the other (status and headers), then 201."""

    folder: Path
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)

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
        return Browser(f"{self.origin}/push/{base64url(token_bytes(9))}")

    async def _take(self, request: web.Request) -> web.Response:
        self.received.append(Received(request.headers.copy(), await request.read()))
        status, headers = self.answers.pop(0) if self.answers else (201, {})
        return web.Response(status=status, headers=headers)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
