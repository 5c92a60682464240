"""What is kept of a provider's refusal: its own words, and nothing of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.payload import Push
from push.providers.answers import MAX_CHARACTERS, read_object, readable
from tests.push.pushes import make_push

TARGET = "fX3kz:APA91bH-a_long_registration_token"
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=3, max_size=60)


def push(**changes: object) -> Push:
    return make_push(target=TARGET, **changes)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Request contains an invalid argument.", "Request contains an invalid argument."),
        (
            "Unknown name \"priority\" at 'message': no such field",
            "Unknown name \"priority\" at 'message': no such field",
        ),
        (f"The token {TARGET} is not valid", "The token … is not valid"),
        ("no such user: Ann", "no such user: …"),
        ("bad text 'see you'", "bad text …"),
        ('bad text "no"', "bad text …"),
        ("Bearer ya29.a0AfH6SMBx7-3k_x9Qabc was refused", "Bearer … was refused"),
        ("visit https://console.example.com/apis?project=12 first", "visit … first"),
        ("one\r\ntwo\tthree\x00\u202efour", "one two three four"),
        ("Invalid value at 'message.ttl' (TYPE_STRING), see you", "Invalid value at 'message.ttl' (TYPE_STRING)"),
        ("", ""),
    ],
)
def test_what_is_kept(said: str, kept: str) -> None:
    assert readable(said, push(text="no\nsee you")) == kept


@given(text=WORDS, before=WORDS, after=WORDS)
def test_neither_target_nor_text_is_kept(text: str, before: str, after: str) -> None:
    kept = readable(f"{before} {text} {after} {TARGET} «{text}»", push(text=text, sender_name="Somebody Else"))

    assert TARGET not in kept
    assert text not in kept.split(" ")
    assert len(kept) <= MAX_CHARACTERS


@pytest.mark.parametrize("body", [None, b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_an_empty_one(body: bytes | None) -> None:
    assert read_object(body) == {}
