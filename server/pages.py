"""
The chat page at ``/`` with its files and its service worker, and the files of the admin: served with validators, under
a strict content security policy. No process of its own for files, and nothing to collect: there are few, and they are
small.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseNotModified

CHAT = Path(__file__).resolve().parent / "static" / "chat"
# Laid out for addresses that begin with ``admin/``.
ADMIN = Path(admin.__file__).resolve().parent / "static"
# Nothing inline, nothing from elsewhere; the socket is on the own host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The service worker shows nothing but notifications, whose pictures are addresses that the app chose.
WORKER_POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' data: https:"


class File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    packed: bytes
    content_type: str
    etag: str


async def page(request: HttpRequest) -> HttpResponse:
    """The chat page."""
    return _serve(request, CHAT, "index.html")


async def file(request: HttpRequest, name: str) -> HttpResponse:
    """One of the page's files."""
    return _serve(request, CHAT, name)


async def worker(request: HttpRequest) -> HttpResponse:
    """The service worker. From the root, because it may only be in charge of what lies below its own address."""
    return _serve(request, CHAT, "sw.js", WORKER_POLICY)


async def icon(request: HttpRequest) -> HttpResponse:
    """What browsers ask for by themselves."""
    return _serve(request, CHAT, "icon.svg")


async def admin_file(request: HttpRequest, name: str) -> HttpResponse:
    """A style, script or image of the admin."""
    return _serve(request, ADMIN, name)


def _serve(request: HttpRequest, folder: Path, name: str, policy: str = POLICY) -> HttpResponse:
    path = _paths(folder).get(name)
    if path is None:
        raise Http404
    found = _read(path)
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
    response["Content-Security-Policy"] = policy
    return response


@cache
def _paths(folder: Path) -> dict[str, Path]:
    """All files by name; only these can be asked for, whatever the path says."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


@cache
def _read(path: Path) -> File:
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind == "application/javascript":
        kind = f"{kind}; charset=utf-8"
    return File(content, gzip.compress(content, mtime=0), kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
