"""
Messages as a push: title, body and data, cut so that every provider takes it.

Pure. What a provider makes of it (blocks, headers) is the provider's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import regex

from models.deliveries import Content, DueClear, DuePush, Kind, Preview

from . import privacy
from .words import Words

# FCM and APNs take 4,096 bytes. Even if every character below must be escaped in JSON (two bytes for one), title and
# body are 2,560 bytes; the ids and names beside them stay under 1,500.
MAX_TITLE_BYTES = 256
MAX_BODY_BYTES = 1_024
# One of several messages, and an address in the data.
MAX_LINE_BYTES = 240
MAX_ADDRESS_BYTES = 300

# What is on the screen under these names is replaced by what comes next under the same one.
SUMMARY_COLLAPSE = "summary"
CLEAR_COLLAPSE = "clear"
# The kind of target that rings like a telephone.
VOIP = "voip"

_ELLIPSIS = "…"
# What a person takes for one character: a letter with its marks, an emoji family (UAX 29).
_GRAPHEME = regex.compile(r"\X")
# Control characters show nothing on a lock screen, and cost six bytes each in JSON. Line breaks and tabs stay.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(r"https?://[^\s\"<>]+")
# From the least private to the most; the most private one of those that have a say holds.
_CONTENTS = (Content.FULL, Content.SENDER, Content.ENCRYPTED, Content.ID_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """
    One push to one device, ready for its provider. ``push_id`` is the same on every try.

    ``collapse`` names the notification on the screen: the next push of the same name replaces it. Without a ``sound``
    it is silent. A clear has neither title nor body: it takes ``data["clear"]`` off the screen.
    """

    push_id: UUID
    kind: Kind
    platform: str
    target_kind: str
    # A secret: kept out of every representation, so that it reaches no log by accident.
    target: str = field(repr=False)
    title: str = ""
    body: str = ""
    thread: str = ""
    collapse: str = ""
    category: str = ""
    badge: int | None = None
    sound: str | None = None
    expires_at: datetime
    ttl_seconds: int
    data: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How this deployment's pushes look; the settings of rendering."""

    words_of: Callable[[str], Words]
    content: Content = Content.FULL
    # With {conversation} and {message} in it. Empty: no link.
    link: str = ""
    sound: str = "default"


def render(due: DuePush, kind: Kind, *, badge: int, look: Look) -> Push:
    """Make the push of a cursor. ``badge`` is the number of conversations with unread messages."""
    words = look.words_of(due.device_locale)
    content = content_of(due, look.content)
    if kind is Kind.CALL:
        title, body, data = _call(due, words, content)
    elif kind is Kind.TEST:
        title, body, data = words.test_title, words.test_body, {}
    else:
        title, body, data = _messages(due, words, content)
    data = {
        "type": _TYPES[kind],
        "push_id": str(due.push_id),
        # A test is about none.
        **({} if kind is Kind.TEST else {"conversation": str(due.conversation_id)}),
        **data,
        **_link(due, look),
        "badge": str(badge),
        "title": title,
        "body": body,
        "channel": _channel(due, kind),
    }
    if due.clears_beside:
        data["clear"] = json.dumps([str(conversation) for conversation in due.clears_beside], separators=(",", ":"))
    if kind is Kind.REVISION:
        data["silent"] = "1"
    push = _push(due, kind, title=title, body=body, badge=badge, data=data, look=look)
    return _sealed(push, due, words) if content is Content.ENCRYPTED else push


def render_summary(dues: Sequence[DuePush], *, badge: int, look: Look) -> Push:
    """Make one push of what gathered in several conversations of one device while it was to be quiet."""
    first = dues[0]
    words = look.words_of(first.device_locale)
    messages = sum(due.unread for due in dues)
    title, body = words.summary_title, words.messages_in_conversations(messages, len(dues))
    data = {
        "type": _TYPES[Kind.SUMMARY],
        "push_id": str(first.push_id),
        "conversations": json.dumps([str(due.conversation_id) for due in dues[:20]], separators=(",", ":")),
        "count": str(messages),
        "badge": str(badge),
        "title": title,
        "body": body,
        "channel": "messages",
    }
    push = _push(first, Kind.SUMMARY, title=title, body=body, badge=badge, data=data, look=look)
    return replace(push, thread="", collapse=SUMMARY_COLLAPSE)


def render_clear(due: DueClear, *, badge: int, ttl_seconds: int, expires_at: datetime) -> Push:
    """Make the push that takes notifications off a screen."""
    conversations = json.dumps([str(conversation) for conversation in due.conversations], separators=(",", ":"))
    return Push(
        push_id=due.push_id,
        kind=Kind.CLEAR,
        platform=due.device_platform,
        target_kind=due.target_kind,
        target=due.target,
        collapse=CLEAR_COLLAPSE,
        badge=badge,
        expires_at=expires_at,
        ttl_seconds=ttl_seconds,
        data={"type": "clear", "push_id": str(due.push_id), "clear": conversations, "badge": str(badge)},
    )


def ids_only(push: Push, words: Words) -> Push:
    """The same push without words and names: the app asks for what the ids name."""
    kept = {key: push.data[key] for key in _ID_FIELDS if key in push.data}
    title = words.incoming_call if push.kind is Kind.CALL else words.new_message
    return replace(push, title=title, body="", data={**kept, "title": title, "body": ""})


def content_of(due: DuePush, default: Content) -> Content:
    """The most private of what deployment, conversation and device ask for; without a key nothing can be encrypted."""
    asked = [default, *(Content(word) for word in (due.conversation_content, due.device_content) if word)]
    content = max(asked, key=_CONTENTS.index)
    return Content.ID_ONLY if content is Content.ENCRYPTED and not due.device_key else content


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


_TYPES = {
    Kind.ALERT: "message.sent",
    Kind.REVISION: "message.sent",
    Kind.SUMMARY: "summary",
    Kind.CALL: "call",
    Kind.TEST: "test",
}
# What names things and tells nothing about them.
_ID_FIELDS = (
    "type",
    "push_id",
    "conversation",
    "message",
    "seq",
    "call",
    "badge",
    "channel",
    "silent",
    "clear",
    "link",
)


def _push(due: DuePush, kind: Kind, *, title: str, body: str, badge: int, data: dict[str, str], look: Look) -> Push:
    conversation = str(due.conversation_id)
    is_alone = kind in (Kind.CALL, Kind.TEST)
    # Only Apple's own service takes them; everywhere else a call is an alert.
    rings = kind is Kind.CALL and due.provider == "apns" and bool(due.voip_target)
    return Push(
        push_id=due.push_id,
        kind=kind,
        platform=due.device_platform,
        target_kind=VOIP if rings else due.target_kind,
        target=due.voip_target if rings else due.target,
        title=title,
        body=body,
        thread="" if kind is Kind.TEST else conversation,
        # One notification for a conversation: whatever arrives twice, or late, is shown once.
        collapse=str(due.push_id) if is_alone else conversation,
        category="call" if kind is Kind.CALL else "message",
        badge=badge,
        sound=None if kind is Kind.REVISION else look.sound,
        expires_at=due.expires_at,
        ttl_seconds=max(0, int((due.expires_at - due.now).total_seconds())),
        data=data,
    )


def _messages(due: DuePush, words: Words, content: Content) -> tuple[str, str, dict[str, str]]:
    newest = due.previews[-1]
    ids = {"message": str(newest.message_id), "seq": str(newest.seq)}
    if content is Content.ID_ONLY:
        return words.new_message, "", ids
    sender = _name(newest, words)
    group = _clean(due.conversation_title)
    is_direct = due.conversation_kind == "direct" or not group
    title = cut(sender if is_direct else group, MAX_TITLE_BYTES)
    data = {**ids, "sender": str(newest.sender_id or ""), "sender_name": cut(sender, MAX_TITLE_BYTES)}
    data["count"] = str(due.unread)
    if avatar := _address(newest.avatar):
        data["avatar"] = avatar
    if content is Content.SENDER:
        return title, words.new_messages(due.unread) if is_direct else words.says(sender, words.new_message), data
    if image := _address(newest.image):
        data["image"] = image
    return title, cut(_lines(due, words, with_names=not is_direct), MAX_BODY_BYTES), data


def _lines(due: DuePush, words: Words, *, with_names: bool) -> str:
    """The newest messages, one in a line, the newest last; before them how many there are, if not all are shown."""
    if len(due.previews) == 1 and due.unread == 1:
        return _line(due.previews[0], words, with_names, MAX_BODY_BYTES)
    lines = [_line(preview, words, with_names, MAX_LINE_BYTES) for preview in due.previews]
    # The newest must not be what is cut off: with five lines of this length all of it fits.
    while sum(len(line.encode()) + 1 for line in lines) > MAX_BODY_BYTES - MAX_LINE_BYTES // 2 and len(lines) > 1:
        lines.pop(0)
    if due.unread > len(lines):
        lines.insert(0, words.new_messages(due.unread))
    return "\n".join(lines)


def _line(preview: Preview, words: Words, with_names: bool, max_bytes: int) -> str:
    text = _clean(preview.text) or words.new_message
    if max_bytes < MAX_BODY_BYTES:
        text = " ".join(text.split())
    return cut(words.says(_name(preview, words), text) if with_names else text, max_bytes)


def _call(due: DuePush, words: Words, content: Content) -> tuple[str, str, dict[str, str]]:
    payload = due.payload or {}
    data = {"call": str(payload.get("call", "")), "seq": "0"}
    if content is Content.ID_ONLY:
        return words.incoming_call, "", data
    caller = cut(_clean(payload.get("sender_name")) or words.someone, MAX_TITLE_BYTES)
    data |= {"sender": str(payload.get("sender", "")), "sender_name": caller}
    if payload.get("data") is not None and content is not Content.SENDER:
        data["data"] = json.dumps(payload["data"], ensure_ascii=False, separators=(",", ":"))
    return caller, words.incoming_call, data


def _sealed(push: Push, due: DuePush, words: Words) -> Push:
    """The same push, readable with the device's key only; what is readable without it are ids."""
    assert due.device_key is not None
    secret = {key: value for key, value in push.data.items() if key not in _ID_FIELDS}
    open_part = ids_only(push, words)
    sealed = privacy.seal(secret, bytes(due.device_key), str(push.push_id))
    return replace(open_part, data={**open_part.data, "encrypted": sealed})


def _link(due: DuePush, look: Look) -> dict[str, str]:
    if not look.link or not due.conversation_kind:
        return {}
    message = str(due.previews[-1].message_id) if due.previews else ""
    link = look.link.replace("{conversation}", str(due.conversation_id)).replace("{message}", message)
    return {"link": link}


def _channel(due: DuePush, kind: Kind) -> str:
    if kind is Kind.CALL:
        return "calls"
    return "mentions" if any(preview.is_mention for preview in due.previews) else "messages"


def _name(preview: Preview, words: Words) -> str:
    return _clean(preview.sender_name) or words.someone


def _address(text: str | None) -> str | None:
    return text if text and len(text.encode()) <= MAX_ADDRESS_BYTES and _ADDRESS.fullmatch(text) else None


def _clean(text: str | None) -> str:
    return _CONTROLS.sub("", text or "").strip()
