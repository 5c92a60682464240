"""The rules that speak against a push, each alone."""

from datetime import timedelta
from typing import Any

import pytest

from models.ids import new_id
from push.decision import reason_to_drop
from tests.push.pushes import NOW, make_delivery

SOON = NOW + timedelta(hours=1)


def test_an_unread_message_is_pushed() -> None:
    assert reason_to_drop(make_delivery()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expires_at": NOW}, "expired"),
        ({"message_deleted_at": NOW, "text": None}, "message_deleted"),
        ({"message_kind": None}, "message_deleted"),
        ({"message_kind": "system"}, "system_message"),
        ({"device_user_id": None}, "device_gone"),
        ({"device_user_id": new_id()}, "device_gone"),
        ({"is_session_revoked": True}, "logged_out"),
        ({"target": ""}, "no_push_target"),
        ({"delivered_seq": 7}, "acknowledged"),
        ({"delivered_seq": 8}, "acknowledged"),
        ({"joined_seq": None}, "not_a_member"),
        ({"joined_seq": 7}, "not_a_member"),
        ({"is_user_active": False}, "not_a_member"),
        ({"read_seq": 7}, "read"),
        ({"is_sender_blocked": True}, "sender_blocked"),
        ({"notification_level": "none"}, "notifications_off"),
        ({"notification_level": "none", "is_mentioned": True}, "notifications_off"),
        ({"notification_level": "mentions"}, "mentions_only"),
        ({"muted_until": SOON}, "muted"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
def test_is_dropped(changes: dict[str, Any], reason: str) -> None:
    assert reason_to_drop(make_delivery(**changes)) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"muted_until": NOW - timedelta(seconds=1)},
        {"muted_until": SOON, "is_mentioned": True},
        {"notification_level": "mentions", "is_mentioned": True},
        {"joined_seq": 6},
        {"delivered_seq": None},
        {"read_seq": 0},
        {"sender_id": None, "sender_name": None},
    ],
    ids=str,
)
def test_is_pushed_all_the_same(changes: dict[str, Any]) -> None:
    assert reason_to_drop(make_delivery(**changes)) is None
