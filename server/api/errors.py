"""Errors as problem details (RFC 9457): the category gives the status, the stable code says what it was."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from consumers import rpc
from consumers.outcomes import is_outage
from models.errors import DatabaseUnavailable, DomainError

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"


def problem(status: int, code: str, detail: str, *, retry_after: float | None = None, **more: Any) -> HttpResponse:
    """Answer with a problem document; ``retry_after`` in seconds."""
    body = {
        "type": f"urn:roost:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    response = HttpResponse(msgspec.json.encode(body), content_type=CONTENT_TYPE, status=status)
    if retry_after is not None:
        response["Retry-After"] = str(math.ceil(retry_after))
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = "Bearer"
    return response


def of(error: Exception) -> HttpResponse:
    """Answer an exception; one that nobody foresaw is logged once, and tells outsiders nothing."""
    if isinstance(error, DomainError):
        status = rpc.refused(error).code
        return problem(status, error.code, error.detail, retry_after=error.retry_after)
    if isinstance(error, msgspec.MsgspecError):
        return problem(400, "invalid_input", str(error)[:300])
    if isinstance(error, RequestDataTooBig):
        return problem(413, "body_too_large", "The body is too large.")
    if is_outage(error):
        log.warning("the database is away: %s", error)
        return of(DatabaseUnavailable())
    log.error("a request failed", exc_info=error)
    return problem(500, "internal_error", "Something went wrong on our side.")


def install(api: NinjaAPI) -> None:
    """Have ninja answer with problem details, whatever goes wrong."""

    @api.exception_handler(Exception)
    def _any(request: HttpRequest, error: Exception) -> HttpResponse:
        return of(error)

    @api.exception_handler(ValidationError)
    def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        fields = [{"where": list(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors]
        return problem(400, "invalid_input", "The request does not fit.", fields=fields)

    @api.exception_handler(HttpError)
    def _http(request: HttpRequest, error: HttpError) -> HttpResponse:
        return problem(error.status_code, "http_error", str(error))

    @api.exception_handler(Http404)
    def _missing(request: HttpRequest, error: Http404) -> HttpResponse:
        return problem(404, "not_found", "There is no such thing.")
