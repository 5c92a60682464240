"""What a push says, and that it always fits."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ids import new_id
from push import payload
from push.payload import cut, render
from push.providers import fcm
from tests.fcm import wrong_with
from tests.push.pushes import NOW, make_delivery, make_push

# Everything that PostgreSQL stores in a text: no NUL, no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6_000)


def test_a_direct_message_bears_the_sender_s_name() -> None:
    push = make_push()

    assert (push.title, push.body) == ("Ann", "hello")


def test_a_group_message_bears_the_title_and_says_who_wrote() -> None:
    push = make_push(conversation_kind="group", conversation_title="Climbing")

    assert (push.title, push.body) == ("Climbing", "Ann: hello")


def test_a_group_without_a_title_bears_the_sender_s_name() -> None:
    push = make_push(conversation_kind="group", conversation_title="")

    assert (push.title, push.body) == ("Ann", "hello")


def test_a_message_without_text_says_that_there_is_one() -> None:
    assert make_push(text=None).body == "New message"


def test_a_sender_who_is_gone_is_someone() -> None:
    assert make_push(sender_id=None, sender_name=None).title == "Someone"


def test_data_names_what_the_app_needs() -> None:
    delivery = make_delivery()

    push = render(delivery, badge=3)

    assert push.data == {
        "type": "message.sent",
        "push_id": str(delivery.id),
        "conversation": str(delivery.conversation_id),
        "message": str(delivery.message_id),
        "seq": "7",
        "sender": str(delivery.sender_id),
        "title": "Ann",
        "body": "hello",
        "badge": "3",
    }


def test_life_is_what_is_left_of_it() -> None:
    assert make_push(expires_at=NOW + timedelta(seconds=90.5)).ttl_seconds == 90


def test_the_target_is_in_no_representation() -> None:
    delivery = make_delivery(target="very-secret")

    assert "very-secret" not in repr(delivery) + repr(render(delivery, badge=0))


def test_control_characters_are_left_out() -> None:
    assert make_push(text="a\x07b\r\nc\x85").body == "ab\nc"


@pytest.mark.parametrize(
    ("text", "max_bytes", "expected"),
    [
        ("short", 5, "short"),
        ("longer", 5, "lo…"),
        ("ééé", 5, "é…"),
        ("中文字符", 9, "中文…"),
        ("😀😀😀", 8, "😀…"),
        ("😀😀😀", 6, "…"),
        ("two words", 7, "two…"),
        # A family is four people and three joiners, 25 bytes; a flag is two letters, 8 bytes.
        ("ab" + "👨‍👩‍👧‍👦" * 3, 40, "ab👨‍👩‍👧‍👦…"),
        ("👍🏽" * 3, 14, "👍🏽…"),
        ("x" + "🇩🇪" * 3, 16, "x🇩🇪…"),
        ("e\u0301" * 3, 8, "e\u0301…"),
        ("مُحَمَّد", 10, "مُ…"),
        # Nobody writes so: cut all the same, instead of leaving nothing.
        ("e" + "\u0301" * 50, 10, "e" + "\u0301" * 3 + "…"),
    ],
)
def test_texts_are_cut_between_graphemes(text: str, max_bytes: int, expected: str) -> None:
    assert cut(text, max_bytes) == expected


@given(text=TEXT, max_bytes=st.integers(3, 200))
def test_a_cut_text_is_valid_and_fits(text: str, max_bytes: int) -> None:
    short = cut(text, max_bytes)

    assert len(short.encode()) <= max_bytes
    assert short == text or text.startswith(short.removesuffix("…"))


@given(
    text=TEXT | st.text('"\\\n\t', min_size=3_000, max_size=5_000),
    title=TEXT | st.text('"\\', min_size=200, max_size=200),
    platform=st.sampled_from(["ios", "android", "web", "other"]),
)
def test_every_message_fits_into_the_provider_s_4096_bytes(text: str, title: str, platform: str) -> None:
    delivery = make_delivery(
        conversation_kind="group", conversation_title=title[:200], text=text, device_platform=platform
    )

    body = fcm.wire_json(render(delivery, badge=999))

    assert wrong_with(body) is None
    assert json.loads(body)["message"]["token"] == delivery.target


def test_limits_leave_room_for_the_rest() -> None:
    ids = len(json.dumps(make_push(text="", sender_name="", seq=2**63 - 1, sender_id=new_id()).data))

    assert ids + 2 * (payload.MAX_TITLE_BYTES + payload.MAX_BODY_BYTES) < 4096
