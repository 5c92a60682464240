"""Tokens of the app's own backend: every algorithm, keys that rotate, and what must never be taken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from consumers import authentication
from consumers.authentication import Authenticator, IssuerSettings, KeySet, KeysUnavailable, WrongToken
from consumers.tokens import AccessTokens
from models.errors import TokenInvalid
from models.ids import new_id

SECRET = "a-secret-of-the-backend-that-is-long-enough-for-every-hash-that-there-is-in-use"
OWN = AccessTokens("our-own-secret")
RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
KEYS: dict[str, Any] = {
    **{f"RS{bits}": RSA for bits in (256, 384, 512)},
    **{name: ec.generate_private_key(curve) for name, curve in CURVES.items()},
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def jwk(key: Any, algorithm: str, key_id: str) -> dict[str, Any]:
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": key_id, "alg": algorithm, "use": "sig"}


def authenticator(**settings: str) -> Authenticator:
    return Authenticator(OWN, IssuerSettings(**settings))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_shared_secret(algorithm: str) -> None:
    identity = await authenticator(hmac_secret=SECRET).connection(jwt.encode({"sub": "7"}, SECRET, algorithm))

    assert (identity.user, identity.external_id, identity.person) == ("7", "7", None)


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_public_key(algorithm: str) -> None:
    key = KEYS[algorithm]
    token = jwt.encode({"sub": "7"}, key, algorithm)

    assert (await authenticator(public_key=public(key)).connection(token)).user == "7"
    with pytest.raises(TokenInvalid):
        await authenticator(public_key=public(rsa.generate_private_key(65537, 2048))).connection(token)


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    # PyJWT would refuse to sign so; somebody else does not.
    head, body = (jwt.utils.base64url_encode(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"sub": "7"}))
    signature = jwt.get_algorithm_by_name("HS256").sign(head + b"." + body, public(RSA).encode())
    forged = b".".join([head, body, jwt.utils.base64url_encode(signature)]).decode()

    for settings in ({"public_key": public(RSA)}, {"public_key": public(RSA), "hmac_secret": SECRET}):
        with pytest.raises(TokenInvalid):
            await authenticator(**settings).connection(forged)


async def test_our_own_tokens_go_on_beside_the_backends() -> None:
    user, session, device = new_id(), new_id(), new_id()
    own = OWN.make(user=user, session=session, device=device)

    identity = await authenticator(hmac_secret=SECRET).connection(own)

    assert (identity.person, identity.session, identity.device) == (user, session, device)
    with pytest.raises(TokenInvalid):
        await authenticator(hmac_secret=SECRET).connection(jwt.encode({"iss": "roost", "sub": "7"}, SECRET, "HS256"))


async def test_audience_and_issuer_have_to_fit() -> None:
    strict = authenticator(hmac_secret=SECRET, audience="app", issuer="backend")

    good = {"sub": "7", "aud": ["app", "other"], "iss": "backend"}
    assert (await strict.connection(jwt.encode(good, SECRET))).user == "7"
    for bad in ({**good, "aud": "other"}, {**good, "iss": "somebody"}, {"sub": "7"}):
        with pytest.raises(TokenInvalid):
            await strict.connection(jwt.encode(bad, SECRET))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 7},
        {"sub": ["7"]},
        {"channels": "news"},
        {"channels": [7]},
        {"subs": {"a": 1}},
        {"subs": {"": {}}},
        {"subs": {"a": {"override": {"presence": True}}}},
        {"expire_at": "soon"},
        {"expire_at": -1},
        {"b64info": "%"},
    ],
)
async def test_claims_of_the_wrong_kind(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        await authenticator(hmac_secret=SECRET).connection(jwt.encode(claims, SECRET))


async def test_all_that_a_token_can_say() -> None:
    claims = {
        "sub": "7",
        "info": {"name": "Ann"},
        "meta": {"plan": "pro"},
        "channels": ["a:1"],
        "subs": {"b:1": {"info": 1, "b64data": "/wA=", "override": {"presence": {"value": True}}}},
    }

    identity = await authenticator(hmac_secret=SECRET).connection(jwt.encode(claims, SECRET))

    assert (identity.info, identity.meta) == (b'{"name":"Ann"}', b'{"plan":"pro"}')
    assert set(identity.channels) == {"a:1", "b:1"}
    grant = identity.channels["b:1"]
    assert (grant.info, grant.data, grant.override) == (b"1", b"\xff\x00", {"presence": True})


async def test_subscription_tokens() -> None:
    checker = authenticator(hmac_secret=SECRET)
    good = jwt.encode({"sub": "7", "channel": "a:1", "info": {"seat": 1}}, SECRET)

    assert (await checker.subscription(good, "7", "a:1")).info == b'{"seat":1}'
    for user, channel in (("8", "a:1"), ("", "a:1"), ("7", "a:2")):
        with pytest.raises(WrongToken):
            await checker.subscription(good, user, channel)
    with pytest.raises(TokenInvalid):
        await checker.subscription(jwt.encode({"sub": "7"}, SECRET), "7", "a:1")
    with pytest.raises(TokenInvalid):
        await authenticator().subscription(good, "7", "a:1")


# --- key sets


class Jwks:
    """An HTTP server with a key set that may change, and fail."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.times_asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.times_asked += 1
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(json.dumps({"keys": outer.keys}).encode())

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def jwks() -> Iterator[Jwks]:
    served = Jwks()
    yield served
    served.stop()


def signed(algorithm: str, key_id: str, key: Any = None) -> str:
    return jwt.encode({"sub": "7"}, key or KEYS[algorithm], algorithm, headers={"kid": key_id})


@pytest.mark.parametrize("algorithm", ["RS256", "ES384", "EdDSA"])
async def test_keys_are_fetched_once_and_kept(jwks: Jwks, algorithm: str) -> None:
    jwks.keys = [jwk(KEYS[algorithm], algorithm, "one")]
    checker = authenticator(jwks_url=jwks.url)

    for _ in range(3):
        assert (await checker.connection(signed(algorithm, "one"))).user == "7"

    assert jwks.times_asked == 1


async def test_an_unknown_key_is_asked_for_but_not_by_every_token(jwks: Jwks, monkeypatch: pytest.MonkeyPatch) -> None:
    jwks.keys = [jwk(RSA, "RS256", "one")]
    checker = authenticator(jwks_url=jwks.url)
    await checker.connection(signed("RS256", "one"))
    other = rsa.generate_private_key(65537, 2048)

    for _ in range(5):
        with pytest.raises(TokenInvalid):
            await checker.connection(signed("RS256", "two", other))
    asked_by_strangers = jwks.times_asked
    monkeypatch.setattr(authentication, "JWKS_RETRY_SECONDS", 0)
    jwks.keys = [jwk(other, "RS256", "two")]
    rotated = await checker.connection(signed("RS256", "two", other))

    assert asked_by_strangers == 1
    assert rotated.user == "7"
    with pytest.raises(TokenInvalid):
        await checker.connection(signed("RS256", "one"))


async def test_without_keys_nobody_is_let_in(jwks: Jwks, monkeypatch: pytest.MonkeyPatch) -> None:
    jwks.keys = [jwk(RSA, "RS256", "one")]
    jwks.status = 500
    checker = authenticator(jwks_url=jwks.url)
    with pytest.raises(KeysUnavailable):
        await checker.connection(signed("RS256", "one"))
    monkeypatch.setattr(authentication, "JWKS_RETRY_SECONDS", 0)
    jwks.status = 200
    await checker.connection(signed("RS256", "one"))

    # Known keys outlive a short outage, and nothing longer.
    jwks.status = 500
    assert (await checker.connection(signed("RS256", "one"))).user == "7"
    monkeypatch.setattr(authentication, "JWKS_SECONDS", 0)
    with pytest.raises(KeysUnavailable):
        await checker.connection(signed("RS256", "one"))


async def test_secrets_and_encryption_keys_in_a_key_set_are_passed_over(jwks: Jwks) -> None:
    jwks.keys = [
        {"kty": "oct", "kid": "one", "k": "c2VjcmV0", "alg": "HS256"},
        {**jwk(RSA, "RS256", "one"), "use": "enc"},
        jwk(RSA, "RS256", "two"),
    ]
    keys = KeySet(jwks.url)

    assert await keys.key("two", "RS256")
    with pytest.raises(TokenInvalid):
        await keys.key("one", "RS256")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/keys", "nonsense"])
async def test_keys_come_by_http_only(url: str) -> None:
    with pytest.raises(KeysUnavailable):
        await KeySet(url).key("one", "RS256")
