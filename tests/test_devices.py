"""The simulated devices keep the rules that are documented for real ones."""

import json
from typing import Any

from tests.devices import (
    FCM_COLLAPSIBLE_BURST,
    FCM_COLLAPSIBLE_SECONDS,
    FCM_STORED,
    Arrival,
    Clock,
    Phone,
    from_apns,
    from_fcm,
)

CLIMBING, CHESS = "climbing", "chess"


def message(seq: int = 1, conversation: str = CLIMBING, **data: str) -> dict[str, str]:
    body = data.pop("body", f"message {seq}")
    return {
        "type": "message.sent",
        "push_id": f"{conversation} {seq}",
        "conversation": conversation,
        "seq": str(seq),
        "title": conversation,
        "body": body,
        "badge": "1",
        **data,
    }


def clear(*conversations: str) -> dict[str, str]:
    return {"type": "clear", "push_id": "c", "clear": json.dumps(conversations), "badge": "0"}


def to_android(phone: Phone, data: dict[str, str], **block: str) -> None:
    phone.take(from_fcm({"data": data, "android": {"priority": "high", "ttl": "3600s", **block}}, phone.clock()))


def to_iphone(phone: Phone, data: dict[str, str], *, push_type: str = "alert", **aps: Any) -> None:
    words = {"alert": {"title": data.get("title"), "body": data.get("body")}, "mutable-content": 1, "badge": 1}
    block = {"content-available": 1} if push_type == "background" else {**words, "sound": "default", **aps}
    headers = {
        "apns-push-type": push_type,
        "apns-expiration": str(int(phone.clock()) + 3600),
        "apns-collapse-id": data.get("conversation", ""),
    }
    phone.take(from_apns(headers, {**data, "aps": block}, data))


def to_browser(phone: Phone, data: dict[str, str], topic: str = "", seconds: float = 3600) -> None:
    phone.take(Arrival(data=data, collapse=topic, expires_at=phone.clock() + seconds, message=data))


# --- Android


def test_an_android_app_shows_the_newest_of_each_conversation_once() -> None:
    phone = Phone()

    for data in (message(2), message(2), message(1), message(1, CHESS), message(3)):
        to_android(phone, data)

    assert phone.shown == [(CLIMBING, "message 3"), (CHESS, "message 1")]
    assert phone.sounds == 3
    assert len(phone.received) == 5


def test_an_android_app_replaces_silently_what_is_on_the_screen() -> None:
    phone = Phone()
    to_android(phone, message(1))
    to_android(phone, message(1, silent="1", body="edited"))

    assert phone.shown == [(CLIMBING, "edited")]
    assert phone.sounds == 1

    phone.dismiss()
    to_android(phone, message(1, silent="1", body="edited again"))

    assert phone.shown == []


def test_an_android_app_takes_away_what_was_read() -> None:
    phone = Phone()
    to_android(phone, message(1))
    to_android(phone, message(1, CHESS))
    to_android(phone, clear(CLIMBING))

    assert phone.shown == [(CHESS, "message 1")]
    assert phone.badge == 0

    to_android(phone, message(1, "swimming", clear=json.dumps([CHESS])))

    assert phone.shown == [("swimming", "message 1")]


def test_a_summary_stays_until_all_of_it_was_read() -> None:
    phone = Phone()
    both = json.dumps([CLIMBING, CHESS])
    to_android(
        phone, {"type": "summary", "push_id": "s", "conversations": both, "title": "Away", "body": "2", "badge": "2"}
    )
    to_android(phone, clear(CLIMBING))
    assert phone.shown == [("Away", "2")]

    to_android(phone, clear(CHESS))
    assert phone.shown == []


def test_a_call_rings_once() -> None:
    phone = Phone()
    ring = {"type": "call", "push_id": "p", "call": "1", "conversation": CLIMBING, "title": "Ann", "body": "Call"}

    to_android(phone, ring)
    to_android(phone, ring)

    assert [call["call"] for call in phone.calls] == ["1"]
    assert phone.sounds == 1


def test_fcm_keeps_the_last_of_each_collapse_key_for_a_phone_that_is_away() -> None:
    phone = Phone()
    to_android(phone, message(1))
    to_android(phone, message(1, CHESS))
    phone.offline()
    to_android(phone, clear(CHESS), collapse_key="clear")
    to_android(phone, clear(CLIMBING), collapse_key="clear")
    phone.online()

    assert phone.shown == [(CHESS, "message 1")]
    assert phone.replaced == 1


def test_fcm_delays_what_has_a_collapse_key_after_twenty() -> None:
    clock = Clock()
    phone = Phone(clock)
    to_android(phone, message(1))
    for _ in range(FCM_COLLAPSIBLE_BURST):
        to_android(phone, clear(CHESS), collapse_key="clear")
    to_android(phone, clear(CLIMBING), collapse_key="clear")
    assert (phone.shown, phone.throttled) == ([(CLIMBING, "message 1")], 1)

    clock.move(FCM_COLLAPSIBLE_SECONDS)
    assert phone.shown == []

    clock.move(2 * FCM_COLLAPSIBLE_SECONDS)
    to_android(phone, message(2))
    to_android(phone, clear(CLIMBING), collapse_key="clear")
    assert (phone.shown, phone.throttled) == ([], 1)


def test_fcm_keeps_everything_without_a_collapse_key_up_to_a_hundred() -> None:
    phone = Phone()
    phone.offline()
    for seq in range(FCM_STORED):
        to_android(phone, message(seq + 1))
    phone.online()
    assert len(phone.received) == FCM_STORED

    phone.offline()
    for seq in range(FCM_STORED + 1):
        to_android(phone, message(seq + 200))
    phone.online()
    assert phone.discarded == FCM_STORED + 1
    assert len(phone.received) == FCM_STORED


def test_what_has_outlived_itself_does_not_arrive() -> None:
    clock = Clock()
    phone = Phone(clock)
    phone.offline()
    to_android(phone, message(1), ttl="60s")
    to_android(phone, message(1, CHESS), ttl="600s")
    clock.move(300)
    phone.online()

    assert phone.shown == [(CHESS, "message 1")]
    assert phone.expired == 1


def test_a_phone_that_dozes_is_woken_by_high_priority_only() -> None:
    phone = Phone()
    phone.doze()
    to_android(phone, message(1))
    to_android(phone, clear(CLIMBING), priority="normal")
    assert phone.shown == [(CLIMBING, "message 1")]

    phone.online()
    assert phone.shown == []


# --- Apple


def test_apple_replaces_what_has_the_same_collapse_id() -> None:
    phone = Phone()
    to_iphone(phone, message(1))
    to_iphone(phone, message(2))
    to_iphone(phone, message(2, CHESS), sound=None)

    assert phone.shown == [(CLIMBING, "message 2"), (CHESS, "message 2")]


def test_a_passive_alert_makes_no_sound() -> None:
    phone = Phone()
    to_iphone(phone, message(1))
    to_iphone(phone, message(1, body="edited"), **{"interruption-level": "passive"})

    assert phone.shown == [(CLIMBING, "edited")]
    assert phone.sounds == 1


def test_apple_stores_one_push_for_a_phone_that_is_away() -> None:
    phone = Phone()
    phone.offline()
    to_iphone(phone, message(1))
    to_iphone(phone, message(1, CHESS))
    phone.online()

    assert phone.shown == [(CHESS, "message 1")]
    assert phone.replaced == 1


def test_apple_throttles_the_fourth_background_push_of_an_hour() -> None:
    clock = Clock()
    phone = Phone(clock)
    for seq in range(4):
        to_iphone(phone, message(seq, f"chat {seq}"))
    for seq in range(4):
        to_iphone(phone, clear(f"chat {seq}"), push_type="background")

    assert phone.shown == [("chat 3", "message 3")]
    assert phone.throttled == 1

    clock.move(3_601)
    to_iphone(phone, clear("chat 3"), push_type="background")
    assert phone.shown == []


def test_an_alert_takes_away_what_it_lists() -> None:
    phone = Phone()
    to_iphone(phone, message(1))
    to_iphone(phone, message(1, CHESS, clear=json.dumps([CLIMBING])))

    assert phone.shown == [(CHESS, "message 1")]


# --- browsers


def test_a_topic_replaces_what_still_waits_for_a_browser() -> None:
    phone = Phone(is_browser=True)
    phone.offline()
    to_browser(phone, message(1), "a")
    to_browser(phone, message(1, CHESS), "b")
    to_browser(phone, message(2), "a")
    phone.online()

    assert phone.shown == [(CHESS, "message 1"), (CLIMBING, "message 2")]
    assert len(phone.received) == 2


def test_a_service_worker_shows_something_for_every_push() -> None:
    phone = Phone(is_browser=True)
    to_browser(phone, message(1))
    phone.dismiss()
    to_browser(phone, message(1))

    assert phone.shown == [(CLIMBING, "message 1")]
    assert phone.sounds == 1


def test_a_browser_that_comes_back_late_gets_what_still_lives() -> None:
    phone = Phone(is_browser=True)
    phone.offline()
    to_browser(phone, message(1), seconds=60)
    phone.online(at=phone.clock() + 61)

    assert (phone.shown, phone.expired) == ([], 1)
