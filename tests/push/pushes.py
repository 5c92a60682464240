"""Makes what is due, and pushes, by hand, for tests of what needs no database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from models.deliveries import DueClear, DuePush, Kind, Preview
from models.ids import new_id
from push.payload import Look, Push, render, render_clear, render_summary
from push.words import Dictionary

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOOK = Look(words_of=Dictionary().words_of)


def make_preview(**changes: Any) -> Preview:
    """Message 7: Ann wrote "hello"."""
    preview = Preview(
        message_id=new_id(),
        seq=7,
        sender_id=new_id(),
        sender_name="Ann",
        avatar=None,
        text="hello",
        image=None,
        is_mention=False,
    )
    return replace(preview, **changes)


def make_due(**changes: Any) -> DuePush:
    """A push that every rule lets pass: Ann wrote "hello" to Bea's phone in a direct conversation."""
    user = new_id()
    preview = make_preview()
    due = DuePush(
        id=new_id(),
        push_id=new_id(),
        subject="",
        payload=None,
        attempts=1,
        leased_until=NOW + timedelta(seconds=60),
        expires_at=NOW + timedelta(days=1),
        provider="memory",
        now=NOW,
        first_seq=7,
        pending_seq=7,
        sent_seq=6,
        shown_seq=0,
        revised_at=None,
        is_deferred=False,
        pushes_in_last_minute=0,
        conversation_id=new_id(),
        conversation_kind="direct",
        conversation_title="",
        conversation_content="",
        message_id=preview.message_id,
        message_kind="text",
        message_deleted_at=None,
        is_mentioned=False,
        is_sender_blocked=False,
        previews=(preview,),
        unread=1,
        user_id=user,
        is_user_active=True,
        time_zone="",
        quiet_from=None,
        quiet_until=None,
        joined_seq=0,
        read_seq=6,
        muted_until=None,
        notification_level="all",
        device_id=new_id(),
        device_user_id=user,
        device_platform="android",
        device_provider="",
        device_locale="",
        device_content="",
        device_seen_at=NOW,
        is_session_revoked=False,
        target_kind="token",
        target="target-of-bea",
        device_key=None,
        delivered_seq=6,
    )
    return replace(due, **changes)


def make_push(kind: Kind = Kind.ALERT, *, look: Look = LOOK, **changes: Any) -> Push:
    """The push of such a cursor; changes of its only message (``text``, ``sender_name`` …) go to the preview."""
    of_message = {name: changes.pop(name) for name in Preview.__dataclass_fields__ if name in changes}
    if of_message:
        changes["previews"] = (make_preview(**of_message),)
    return render(make_due(**changes), kind, badge=3, look=look)


def make_clear(**changes: Any) -> Push:
    """The push that takes a notification off the screen of Bea's phone; two conversations stay unread."""
    due = DueClear(
        device_id=new_id(),
        user_id=new_id(),
        push_id=new_id(),
        attempts=1,
        leased_until=NOW + timedelta(seconds=60),
        now=NOW,
        provider="memory",
        device_user_id=new_id(),
        device_platform="android",
        device_provider="",
        is_session_revoked=False,
        target_kind="token",
        target="target-of-bea",
        conversations=(new_id(),),
    )
    return replace(render_clear(due, badge=2, ttl_seconds=86_400, expires_at=NOW + timedelta(days=1)), **changes)


def make_push_of(kind: Kind, **changes: Any) -> Push:
    """A push of whatever kind, with what it needs; changes are those of its cursor."""
    if kind is Kind.CLEAR:
        return make_clear()
    if kind is Kind.SUMMARY:
        return render_summary([make_due(**changes), make_due(**changes)], badge=3, look=LOOK)
    if kind is Kind.CALL:
        changes = {
            "subject": "call:1",
            "payload": {"call": "1", "sender": str(new_id()), "sender_name": "Ann"},
            **changes,
        }
    if kind is Kind.TEST:
        changes = {"subject": "test:1", **changes}
    return make_push(kind, **changes)
