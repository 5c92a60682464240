"""
A message as a push: title, body and data, cut so that every provider takes it.

Pure. What a provider makes of it (blocks, headers) is the provider's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import regex

from models.deliveries import DueDelivery

# FCM and APNs take 4,096 bytes. Even if every character below must be escaped in JSON (two bytes for one), title and
# body are 2,560 bytes; the ids and names beside them stay under 1,000.
MAX_TITLE_BYTES = 256
MAX_BODY_BYTES = 1_024

NEW_MESSAGE = "New message"

_ELLIPSIS = "…"
# What a person takes for one character: a letter with its marks, an emoji family (UAX 29).
_GRAPHEME = regex.compile(r"\X")
# Control characters show nothing on a lock screen, and cost six bytes each in JSON. Line breaks and tabs stay.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One push to one device, ready for its provider. ``push_id`` is the same on every try."""

    push_id: UUID
    platform: str
    target_kind: str
    # A secret: kept out of every representation, so that it reaches no log by accident.
    target: str = field(repr=False)
    title: str
    body: str
    thread: str
    badge: int
    expires_at: datetime
    ttl_seconds: int
    data: dict[str, str]


def render(delivery: DueDelivery, *, badge: int) -> Push:
    """Make the push of a delivery. ``badge`` is the number of conversations with unread messages."""
    title, body = _words(delivery)
    thread = str(delivery.conversation_id)
    return Push(
        push_id=delivery.id,
        platform=delivery.device_platform,
        target_kind=delivery.target_kind,
        target=delivery.target,
        title=title,
        body=body,
        thread=thread,
        badge=badge,
        expires_at=delivery.expires_at,
        ttl_seconds=max(0, int((delivery.expires_at - delivery.now).total_seconds())),
        data={
            "type": "message.sent",
            "push_id": str(delivery.id),
            "conversation": thread,
            "message": str(delivery.message_id),
            "seq": str(delivery.seq),
            "sender": str(delivery.sender_id or ""),
            "title": title,
            "body": body,
            "badge": str(badge),
        },
    )


def ids_only(push: Push) -> Push:
    """The same push without words and names: the app asks for what the ids name."""
    data = {**push.data, "title": NEW_MESSAGE, "body": ""}
    return replace(push, title=NEW_MESSAGE, body="", data=data)


def cut(text: str, max_bytes: int) -> str:
    """Shorten a text to so many bytes of UTF-8, never inside a grapheme; what was cut ends in an ellipsis."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    kept = encoded[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore")
    return kept[: _last_boundary(text, len(kept))].rstrip() + _ELLIPSIS


def _last_boundary(text: str, end: int) -> int:
    """Where the last grapheme ends that does not reach beyond ``end``; ``end`` itself if the first one does."""
    # From the beginning: which halves make a flag is only known from there. One more character shows what goes on.
    ends = (match.end() for match in _GRAPHEME.finditer(text, 0, end + 1))
    return max((found for found in ends if found <= end), default=end)


def _words(delivery: DueDelivery) -> tuple[str, str]:
    sender = _clean(delivery.sender_name) or "Someone"
    text = _clean(delivery.text) or NEW_MESSAGE
    group = _clean(delivery.conversation_title)
    if delivery.conversation_kind == "direct" or not group:
        return cut(sender, MAX_TITLE_BYTES), cut(text, MAX_BODY_BYTES)
    return cut(group, MAX_TITLE_BYTES), cut(f"{sender}: {text}", MAX_BODY_BYTES)


def _clean(text: str | None) -> str:
    return _CONTROLS.sub("", text or "").strip()
