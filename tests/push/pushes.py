"""Makes deliveries and pushes by hand, for tests of what needs no database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from models.deliveries import DueDelivery
from models.ids import new_id
from push.payload import Push, render

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def make_delivery(**changes: Any) -> DueDelivery:
    """A delivery that every rule lets pass: Ann wrote "hello" to Bea's phone in a direct conversation."""
    user = new_id()
    delivery = DueDelivery(
        id=new_id(),
        attempts=1,
        leased_until=NOW + timedelta(seconds=60),
        expires_at=NOW + timedelta(days=1),
        provider="memory",
        now=NOW,
        conversation_id=new_id(),
        conversation_kind="direct",
        conversation_title="",
        message_id=new_id(),
        seq=7,
        message_kind="text",
        text="hello",
        message_deleted_at=None,
        is_mentioned=False,
        sender_id=new_id(),
        sender_name="Ann",
        is_sender_blocked=False,
        user_id=user,
        is_user_active=True,
        joined_seq=0,
        read_seq=6,
        muted_until=None,
        notification_level="all",
        device_id=new_id(),
        device_user_id=user,
        device_platform="android",
        device_provider="",
        is_session_revoked=False,
        target_kind="token",
        target="target-of-bea",
        delivered_seq=6,
    )
    return replace(delivery, **changes)


def make_push(**changes: Any) -> Push:
    return render(make_delivery(**changes), badge=3)
