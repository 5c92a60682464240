"""The ninja API at ``/v1``: every operation by its line in the table, and the document that describes them."""

from __future__ import annotations

from typing import Any

from ninja import NinjaAPI, Router

from . import backend, errors, openapi, push, tokens, views
from .operations import OPERATIONS


class Api(NinjaAPI):
    """ninja with our schemas in its document."""

    def get_openapi_schema(self, *args: Any, **kwargs: Any) -> Any:
        schema = super().get_openapi_schema(*args, **kwargs)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(openapi.components())
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        return schema


def make() -> Api:
    """Make the API from the table."""
    api = Api(
        title="Roost",
        version="1",
        description="Everything a client does, over HTTP. The websocket has the same operations as methods.",
        # Its pages load their scripts from elsewhere.
        docs_url=None,
        openapi_url="/openapi.json",
        urls_namespace="v1",
    )
    errors.install(api)
    router = Router()
    # The first address that fits answers: this one would be taken for the id of a push.
    router.add_api_operation(
        "/push/key",
        ["GET"],
        push.key,
        tags=["Devices and sessions"],
        summary="Show the key that browsers subscribe with",
        operation_id="push.key",
        openapi_extra=openapi.of_push_key(),
    )
    for operation in OPERATIONS:
        router.add_api_operation(
            operation.path,
            [operation.verb],
            views.make(operation),
            tags=[operation.tag],
            summary=operation.summary,
            operation_id=operation.method,
            openapi_extra=openapi.describe(operation),
        )
    for address in backend.OPERATIONS:
        router.add_api_operation(
            address.path,
            [address.verb],
            backend.make(address),
            tags=[address.tag],
            summary=address.summary,
            operation_id=address.name,
            openapi_extra=openapi.describe_backend(address),
        )
    router.add_api_operation(
        "/auth/token/refresh",
        ["POST"],
        tokens.refresh,
        tags=["Devices and sessions"],
        summary="Exchange a refresh token",
        operation_id="token.refresh",
        openapi_extra=openapi.of_refresh(),
    )
    api.add_router("", router)
    return api


api = make()
