"""``GET /v1/push/key``: what browsers subscribe with. No token is needed: push services are sent the key as well."""

from __future__ import annotations

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from push import vapid

from .rate_limit import limiter


class PushKey(msgspec.Struct):
    """The public half of the deployment's VAPID key, in base64url; null where there is no Web Push."""

    vapid_public_key: str | None


async def key(request: HttpRequest) -> HttpResponse:
    """Show the key that browsers subscribe with."""
    address = f"address:{request.META.get('REMOTE_ADDR')}"
    await limiter().take({address: settings.ROOST.http_requests_per_minute_address})
    private = settings.ROOST.vapid_private_key
    answer = PushKey(vapid.public_text(vapid.read_private_key(private)) if private else None)
    response = HttpResponse(msgspec.json.encode(answer), content_type="application/json")
    # A page with an old key could not subscribe.
    response["Cache-Control"] = "no-store"
    return response
