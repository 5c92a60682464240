"""``POST /v1/auth/token/refresh``: the next pair of tokens, without an access token."""

from __future__ import annotations

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from models import threads
from models.operations import sessions

from ..accounts.strategy import token_pair
from .rate_limit import limiter


class Refresh(msgspec.Struct):
    refresh_token: str


class TokenPair(msgspec.Struct):
    """Keep the new refresh token: the one that was sent works for thirty seconds more."""

    access_token: str
    refresh_token: str
    expires_in: int


async def refresh(request: HttpRequest) -> HttpResponse:
    """Exchange a refresh token for the next pair."""
    address = f"address:{request.META.get('REMOTE_ADDR')}"
    await limiter().take({address: settings.ROOST.http_requests_per_minute_address})
    body = msgspec.json.decode(request.body, type=Refresh)
    pair = await threads.run(_refresh, body.refresh_token)
    response = HttpResponse(msgspec.json.encode(pair), content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


def _refresh(refresh_token: str) -> dict[str, object]:
    return token_pair(sessions.refresh_session(refresh_token=refresh_token))
