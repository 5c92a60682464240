"""A provider's refusal in its own words, without what we sent: fit to be kept and to be shown to operators. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..payload import Push

MAX_CHARACTERS = 500
# Shorter ones tell nothing, and would take the provider's words apart.
MIN_SECRET_CHARACTERS = 3

_GAP = "…"
# Targets and tokens, whole or cut: long, and with digits in them.
_TOKEN = re.compile(r"(?=[\w+/=.:~%-]*\d)[\w+/=.:~%-]{20,}", re.ASCII)
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
# A value that was refused is quoted ("Invalid value at 'message.data[0].value' (TYPE_STRING), …"); so is its path.
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_PATH = re.compile(r"[A-Za-z_][\w.\[\]]*", re.ASCII)
_REFUSED_VALUE = re.compile(r"(\(TYPE_\w+\)),.*", re.DOTALL)
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\s]+")


def readable(text: str, push: Push) -> str:
    """A provider's words without the push's target, without its words, without addresses and tokens; in one line."""
    ours = set(_ours(push))
    text = _REFUSED_VALUE.sub(r"\1", text)
    for secret in sorted((word for word in ours if len(word) >= MIN_SECRET_CHARACTERS), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _GAP, text)
    text = _TOKEN.sub(_GAP, _URL.sub(_GAP, text))
    text = _QUOTED.sub(lambda found: found[0] if _is_path(found[1] or found[2] or "", ours) else _GAP, text)
    return _UNSEEN.sub(" ", text).strip()[:MAX_CHARACTERS].strip()


def read_object(body: bytes | None) -> Mapping[str, Any]:
    """The JSON object of an answer; empty if it is none."""
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ours(push: Push) -> Iterator[str]:
    """All that we sent and the provider may have quoted, whole and in its parts (a subscription has several)."""
    for text in (push.target, push.title, push.body, *push.data.values()):
        yield text
        yield from text.splitlines()
        yield from _texts(read_object(text.encode())) if text.startswith("{") else ()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)


def _is_path(quoted: str, ours: set[str]) -> bool:
    return bool(_PATH.fullmatch(quoted)) and quoted not in ours
