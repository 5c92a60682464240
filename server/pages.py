"""The chat page at ``/`` and its files: read once, served with validators, under a strict content security policy."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseNotModified

FOLDER = Path(__file__).resolve().parent / "static" / "chat"
# Nothing inline, nothing from elsewhere; the socket is on the own host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    packed: bytes
    content_type: str
    etag: str


async def page(request: HttpRequest) -> HttpResponse:
    """The chat page."""
    return _serve(request, "index.html")


async def file(request: HttpRequest, name: str) -> HttpResponse:
    """One of the page's files."""
    return _serve(request, name)


def _serve(request: HttpRequest, name: str) -> HttpResponse:
    found = _files().get(name)
    if found is None:
        raise Http404
    if found.etag in request.headers.get("If-None-Match", ""):
        response: HttpResponse = HttpResponseNotModified()
    else:
        packs = "gzip" in request.headers.get("Accept-Encoding", "")
        response = HttpResponse(found.packed if packs else found.content, content_type=found.content_type)
        if packs:
            response["Content-Encoding"] = "gzip"
    response["ETag"] = found.etag
    # Names do not carry versions, so browsers ask each time, and mostly hear "not modified".
    response["Cache-Control"] = "no-cache"
    response["Vary"] = "Accept-Encoding"
    response["Content-Security-Policy"] = POLICY
    return response


@cache
def _files() -> dict[str, File]:
    """All files by name; only these can be asked for, whatever the path says."""
    return {str(path.relative_to(FOLDER)): _read(path) for path in FOLDER.rglob("*") if path.is_file()}


def _read(path: Path) -> File:
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind == "application/javascript":
        kind = f"{kind}; charset=utf-8"
    return File(content, gzip.compress(content, mtime=0), kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
