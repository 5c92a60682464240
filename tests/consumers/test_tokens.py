"""Access tokens: what opens the doors, and what must not."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.tokens import ISSUER, AccessTokens
from models.errors import TokenExpired, TokenInvalid

TOKENS = AccessTokens("a secret of at least as many characters as it takes")
KEY = TOKENS._key
USER, SESSION, DEVICE = uuid4(), uuid4(), uuid4()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, with changes; None leaves one out."""
    now = int(time.time())
    good = {"iss": ISSUER, "sub": str(USER), "sid": str(SESSION), "did": str(DEVICE), "iat": now, "exp": now + 60}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(key: bytes = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


def test_a_token_says_who_and_until_when() -> None:
    token = TOKENS.make(user=USER, session=SESSION, device=DEVICE, lifetime_seconds=60)

    found = TOKENS.verify(token)

    assert (found.user, found.session, found.device) == (USER, SESSION, DEVICE)
    assert found.expires_at == pytest.approx(time.time() + 60, abs=5)


def test_a_token_that_has_run_out_is_told_from_a_bad_one() -> None:
    token = TOKENS.make(user=USER, session=SESSION, device=DEVICE, lifetime_seconds=-1)

    with pytest.raises(TokenExpired):
        TOKENS.verify(token)


def test_a_token_that_has_run_out_and_is_forged_is_a_bad_one() -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(signed(key=b"another key that is long enough too", exp=1))


@pytest.mark.parametrize(
    "token",
    [
        signed(key=b"another key that is long enough too"),
        # The deployment's secret itself signs cookies and links; none of them may be a token.
        signed(key=b"a secret of at least as many characters as it takes"),
        AccessTokens("another deployment's secret").make(user=USER, session=SESSION, device=DEVICE),
        signed(algorithm="HS512", key=KEY * 2),
        jwt.encode(claims(), None, "none"),  # type: ignore[arg-type]
        jwt.encode(claims(), None, "none", headers={"alg": "none"}) + "AAAA",  # type: ignore[arg-type]
    ],
    ids=["wrong-key", "raw-secret", "other-deployment", "other-algorithm", "none", "none-with-signature"],
)
def test_what_we_have_not_signed_opens_nothing(token: str) -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(token)


def test_a_signature_does_not_fit_other_claims() -> None:
    head, _, signature = TOKENS.make(user=USER, session=SESSION, device=DEVICE).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(sub=str(uuid4()))).encode()).rstrip(b"=").decode()

    with pytest.raises(TokenInvalid):
        TOKENS.verify(f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody else"},
        {"iss": None},
        {"aud": "another service"},
        {"channel": "chat:1"},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sid": None},
        {"did": None},
        {"sub": "alice"},
        {"sid": ""},
        {"did": 7},
        {"sid": ["a"]},
    ],
    ids=str,
)
def test_a_token_for_something_else_opens_nothing_although_we_signed_it(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(signed(**changes))


@given(
    st.one_of(st.text(), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*"), st.binary().map(lambda raw: raw.decode("latin-1")))
)
def test_anything_else_is_refused_and_breaks_nothing(token: str) -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(token)


def test_ids_are_told_apart() -> None:
    found = TOKENS.verify(signed())

    assert isinstance(found.user, UUID)
    assert len({found.user, found.session, found.device}) == 3
