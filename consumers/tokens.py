"""Access tokens: the JWT that opens both doors. Signed with a key of its own, made from the deployment's secret."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from uuid import UUID

import jwt

from models.errors import TokenExpired, TokenInvalid

ALGORITHM = "HS256"
ISSUER = "roost"
ACCESS_SECONDS = 15 * 60


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a token speaks for, and until when (Unix seconds)."""

    user: UUID
    session: UUID
    device: UUID
    expires_at: int


class AccessTokens:
    """Makes and verifies access tokens."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.new(secret.encode(), b"roost access token", hashlib.sha256).digest()

    def make(self, *, user: UUID, session: UUID, device: UUID, lifetime_seconds: int = ACCESS_SECONDS) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": str(user),
            "sid": str(session),
            "did": str(device),
            "iat": now,
            "exp": now + lifetime_seconds,
        }
        return jwt.encode(claims, self._key, ALGORITHM)

    def verify(self, token: str) -> Claims:
        """
        Check a token's signature, life and shape.

        Raises:
            TokenExpired: it was good once.
            TokenInvalid: anything else.
        """
        try:
            claims = jwt.decode(
                token, self._key, [ALGORITHM], issuer=ISSUER, options={"require": ["exp", "sub", "sid", "did"]}
            )
            # A subscription token must not open a connection.
            if "channel" in claims:
                raise TokenInvalid
            return Claims(UUID(claims["sub"]), UUID(claims["sid"]), UUID(claims["did"]), int(claims["exp"]))
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            raise TokenExpired from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise TokenInvalid from None
