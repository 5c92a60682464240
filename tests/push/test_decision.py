"""The rules that speak against a push, each alone."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from models.deliveries import Kind
from models.ids import new_id
from push.decision import Decision, Drop, Send, Wait, decide
from tests.push.pushes import NOW, make_due, make_preview

SOON = NOW + timedelta(hours=1)
NOTHING = {"previews": (), "unread": 0}
BERLIN = {"time_zone": "Europe/Berlin", "quiet_from": time(22), "quiet_until": time(7)}


def decided(**changes: Any) -> Decision:
    return decide(make_due(**changes), stale_after=timedelta(days=60))


def test_an_unread_message_is_pushed() -> None:
    assert decided() == Send(Kind.ALERT)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expires_at": NOW}, "expired"),
        ({"device_user_id": None}, "device_gone"),
        ({"device_user_id": new_id()}, "device_gone"),
        ({"is_session_revoked": True}, "logged_out"),
        ({"target": ""}, "no_push_target"),
        ({"device_seen_at": NOW - timedelta(days=61)}, "stale_device"),
        ({"joined_seq": None}, "not_a_member"),
        ({"joined_seq": 7}, "not_a_member"),
        ({"is_user_active": False}, "not_a_member"),
        ({"notification_level": "none"}, "notifications_off"),
        ({"notification_level": "none", "is_mentioned": True}, "notifications_off"),
        ({"delivered_seq": 7}, "acknowledged"),
        ({"delivered_seq": 8}, "acknowledged"),
        # What may be shown is found by the query; when that is nothing, the newest message says why.
        ({"message_deleted_at": NOW, **NOTHING}, "message_deleted"),
        ({"message_id": None, "message_kind": None, **NOTHING}, "message_deleted"),
        ({"message_kind": "system", **NOTHING}, "system_message"),
        ({"read_seq": 7, **NOTHING}, "read"),
        ({"is_sender_blocked": True, **NOTHING}, "sender_blocked"),
        ({"notification_level": "mentions", **NOTHING}, "mentions_only"),
        ({"muted_until": SOON, **NOTHING}, "muted"),
        ({"sent_seq": 7}, "nothing_new"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
def test_is_dropped(changes: dict[str, Any], reason: str) -> None:
    assert decided(**changes) == Drop(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"muted_until": NOW - timedelta(seconds=1)},
        {"muted_until": SOON, "previews": (make_preview(is_mention=True),)},
        {"joined_seq": 6},
        {"delivered_seq": None},
        {"read_seq": 0},
        {"shown_seq": 6},
        # An older mention, though the newest message is none.
        {"muted_until": SOON, "pending_seq": 9, "previews": (make_preview(seq=8, is_mention=True),)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_is_pushed_all_the_same(changes: dict[str, Any]) -> None:
    assert decided(**changes) == Send(Kind.ALERT)


def test_an_edited_message_on_the_screen_is_shown_anew() -> None:
    assert decided(pending_seq=0, first_seq=0, sent_seq=7, shown_seq=7, revised_at=NOW) == Send(Kind.REVISION)


def test_a_new_message_beside_an_edited_one_is_news() -> None:
    assert decided(shown_seq=6, revised_at=NOW) == Send(Kind.ALERT)


def test_in_quiet_hours_it_waits_for_their_end() -> None:
    night = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)

    assert decided(now=night, expires_at=night + timedelta(days=1), **BERLIN) == Wait(
        "quiet_hours", 6.5 * 3600, defers=True
    )


def test_a_crowded_device_waits_a_moment() -> None:
    assert decided(pushes_in_last_minute=59) == Send(Kind.ALERT)
    assert decided(pushes_in_last_minute=60) == Wait("too_many_pushes", 10.0)


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, Send(Kind.CALL)),
        ({"muted_until": SOON}, Send(Kind.CALL)),
        ({"notification_level": "mentions"}, Send(Kind.CALL)),
        ({"notification_level": "none"}, Drop("notifications_off")),
        ({"is_sender_blocked": True}, Drop("sender_blocked")),
        ({"joined_seq": None}, Drop("not_a_member")),
        ({"quiet_from": time(11), "quiet_until": time(13), "time_zone": "UTC"}, Drop("quiet_hours")),
        ({"expires_at": NOW}, Drop("expired")),
    ],
    ids=str,
)
def test_a_call_rings_or_is_dropped_and_never_waits(changes: dict[str, Any], decision: Decision) -> None:
    assert decided(subject="call:1", payload={"call": "1"}, **{**NOTHING, **changes}) == decision


def test_a_test_asks_only_for_the_device() -> None:
    assert decided(subject="test:1", joined_seq=None, notification_level=None, **NOTHING) == Send(Kind.TEST)
    assert decided(subject="test:1", target="", **NOTHING) == Drop("no_push_target")
