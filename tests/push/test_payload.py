"""What a push says, and that it always fits."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deliveries import Content, Kind
from models.ids import new_id
from push import payload
from push.payload import Look, cut, ids_only, render
from push.providers import fcm
from tests.fcm import wrong_with
from tests.push.pushes import LOOK, NOW, make_due, make_preview, make_push

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
    due = make_due()

    push = render(due, Kind.ALERT, badge=3, look=LOOK)

    assert push.data == {
        "type": "message.sent",
        "push_id": str(due.push_id),
        "conversation": str(due.conversation_id),
        "message": str(due.message_id),
        "seq": "7",
        "sender": str(due.previews[0].sender_id),
        "sender_name": "Ann",
        "count": "1",
        "title": "Ann",
        "body": "hello",
        "badge": "3",
        "channel": "messages",
    }
    assert (push.collapse, push.sound) == (str(due.conversation_id), "default")


def test_several_messages_are_lines_the_newest_last() -> None:
    previews = tuple(make_preview(seq=seq, text=f"number\n{seq}") for seq in (5, 6, 7))

    direct = make_push(previews=previews, unread=3)
    group = make_push(previews=previews, unread=3, conversation_kind="group", conversation_title="Climbing")

    assert direct.body == "number 5\nnumber 6\nnumber 7"
    assert group.body == "Ann: number 5\nAnn: number 6\nAnn: number 7"


def test_more_than_can_be_shown_is_counted() -> None:
    previews = tuple(make_preview(seq=seq, text=str(seq)) for seq in range(96, 101))

    push = make_push(previews=previews, unread=100, pending_seq=100)

    assert push.body == "100 new messages\n96\n97\n98\n99\n100"
    assert (push.data["count"], push.data["seq"]) == ("100", "100")


def test_of_five_long_messages_the_newest_is_there() -> None:
    previews = tuple(make_preview(seq=seq, text=f"{seq}" * 600) for seq in range(3, 8))

    push = make_push(previews=previews, unread=5)

    assert push.body.split("\n")[-1].startswith("777")
    assert len(push.body.encode()) <= payload.MAX_BODY_BYTES


def test_a_mention_has_a_channel_of_its_own() -> None:
    assert make_push(is_mention=True).data["channel"] == "mentions"


def test_addresses_go_along_if_they_are_some() -> None:
    avatar, image = "https://cdn.example.com/ann.png", "https://cdn.example.com/view.jpg"

    assert make_push(avatar=avatar, image=image).data["avatar"] == avatar
    assert make_push(avatar=avatar, image=image).data["image"] == image
    assert "avatar" not in make_push(avatar="javascript:alert(1)").data
    assert "image" not in make_push(image="https://example.com/" + "x" * 300).data


def test_the_link_names_conversation_and_message() -> None:
    due = make_due()
    look = Look(words_of=LOOK.words_of, link="app://chat/{conversation}?at={message}")

    push = render(due, Kind.ALERT, badge=0, look=look)

    assert push.data["link"] == f"app://chat/{due.conversation_id}?at={due.message_id}"


def test_a_revision_is_silent_and_bears_the_same_name() -> None:
    due = make_due()
    alert, revision = (render(due, kind, badge=1, look=LOOK) for kind in (Kind.ALERT, Kind.REVISION))

    assert revision.sound is None
    assert revision.data["silent"] == "1"
    assert revision.collapse == alert.collapse


def test_other_conversations_to_clear_are_listed() -> None:
    due = make_due()
    read, also = new_id(), new_id()

    push = render(replace(due, clears=(read, due.conversation_id, also)), Kind.ALERT, badge=1, look=LOOK)

    assert json.loads(push.data["clear"]) == [str(read), str(also)]


def test_who_wrote_and_not_what() -> None:
    push = make_push(look=Look(words_of=LOOK.words_of, content=Content.SENDER), text="a secret", image="https://x.y/z")

    assert (push.title, push.body) == ("Ann", "New message")
    assert "a secret" not in str(push)
    assert "image" not in push.data


def test_ids_and_nothing_else() -> None:
    push = make_push(
        look=Look(words_of=LOOK.words_of, content=Content.ID_ONLY), text="a secret", conversation_title="Secret club"
    )

    assert (push.title, push.body) == ("New message", "")
    assert not [word for word in ("a secret", "Ann", "Secret club") if word in str(push)]


def test_what_is_too_big_keeps_its_ids() -> None:
    push = make_push(text="words")

    small = ids_only(push, LOOK.words_of(""))

    assert small.data["message"] == push.data["message"]
    assert (small.title, small.body, small.push_id) == ("New message", "", push.push_id)
    assert "words" not in str(small)


def test_life_is_what_is_left_of_it() -> None:
    assert make_push(expires_at=NOW + timedelta(seconds=90.5)).ttl_seconds == 90


def test_the_target_is_in_no_representation() -> None:
    due = make_due(target="very-secret", device_key=b"k" * 32)

    shown = repr(due) + repr(render(due, Kind.ALERT, badge=0, look=LOOK))

    assert "very-secret" not in shown
    assert "kkkk" not in shown


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
    count=st.sampled_from([1, 5]),
)
def test_every_message_fits_into_the_provider_s_4096_bytes(text: str, title: str, platform: str, count: int) -> None:
    due = make_due(
        conversation_kind="group",
        conversation_title=title[:200],
        previews=tuple(make_preview(text=text, sender_name=title[:100]) for _ in range(count)),
        unread=count,
        device_platform=platform,
        clears=tuple(new_id() for _ in range(50)),
    )

    body = fcm.wire_json(render(due, Kind.ALERT, badge=999, look=LOOK))

    assert wrong_with(body) is None
    assert json.loads(body)["message"]["token"] == due.target


def test_limits_leave_room_for_the_rest() -> None:
    ids = len(json.dumps(make_push(text="", sender_name="", seq=2**63 - 1, sender_id=new_id()).data))

    assert ids + 2 * (payload.MAX_TITLE_BYTES + payload.MAX_BODY_BYTES) < 4096
