"""Pushes that carry ids only, or that only the app can read: as documented, and without a word too much."""

from __future__ import annotations

import base64
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from models.deliveries import Content, Kind
from models.ids import new_id
from push.payload import Look, Push, content_of, ids_only, render_summary
from push.privacy import KEY_BYTES, NotReadable, seal, unseal
from push.words import Dictionary, Words
from tests.push.pushes import make_due, make_preview, make_push

KEY = bytes(range(KEY_BYTES))
PUSH_ID = "0199c0de-0000-7000-8000-000000000001"
FIELDS = {"title": "Ann", "body": "غدا 🧗"}
SEALED = seal(FIELDS, KEY, PUSH_ID, nonce=bytes(range(12)))


# --- what the document promises

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "push-encryption.md"
SECTION = DOCUMENT.read_text().partition("## Test vectors\n")[2].partition("\n## ")[0]
VECTORS: list[dict[str, str]] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)]

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["push_id"][-1])


def raw_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 3
    assert any(not vector["plain"].isascii() for vector in VECTORS)


@each_vector
def test_a_vector_is_what_we_seal_and_open(vector: dict[str, str]) -> None:
    key, fields = raw_of(vector["key"]), json.loads(vector["plain"])

    assert seal(fields, key, vector["push_id"], raw_of(vector["nonce"])) == vector["sealed"]
    assert unseal(vector["sealed"], key, vector["push_id"]) == fields


@each_vector
def test_a_vector_has_the_documented_parts(vector: dict[str, str]) -> None:
    raw = raw_of(vector["sealed"])

    plain = AESGCM(raw_of(vector["key"])).decrypt(raw[1:13], raw[13:], vector["push_id"].encode("ascii"))

    assert raw[:1] == b"\x01"
    assert raw[1:13] == raw_of(vector["nonce"])
    assert plain == vector["plain"].encode()
    assert len(raw) == 1 + 12 + len(plain) + 16
    assert "=" not in vector["sealed"]


@each_vector
def test_a_vector_is_refused_with_another_key_or_push_or_any_bit_changed(vector: dict[str, str]) -> None:
    key, raw = raw_of(vector["key"]), raw_of(vector["sealed"])
    others = [vector["push_id"][:-1] + "f", vector["push_id"].upper(), ""]

    wrong = [(vector["sealed"], bytes(KEY_BYTES), vector["push_id"])]
    wrong += [(vector["sealed"], key, push_id) for push_id in others]
    wrong += [(text_of(flipped(raw, bit)), key, vector["push_id"]) for bit in range(8 * len(raw))]

    for sealed, with_key, push_id in wrong:
        with pytest.raises(NotReadable):
            unseal(sealed, with_key, push_id)


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- what nobody can open


@pytest.mark.parametrize(
    "sealed",
    [
        "",
        "A",
        "AQ",
        "AQ==",
        SEALED[:-1],
        SEALED[:38],
        SEALED[:-2] + "==",
        SEALED + "A",
        SEALED + "AAAA",
        " " + SEALED,
        SEALED + "\n",
        "\0" + SEALED,
        SEALED.replace(SEALED[30], "!"),
        "ü" * 60,
        "\ud800" * 60,
        text_of(b"\x00" + raw_of(SEALED)[1:]),
        text_of(b"\x02" + raw_of(SEALED)[1:]),
        text_of(raw_of(SEALED)[1:]),
        # As long as the shortest, with nothing in it.
        text_of(b"\x01" + bytes(12) + bytes(16)),
        text_of(b"\x01" + bytes(12) + bytes(15)),
    ],
)
def test_what_is_not_sealed_so_is_not_readable(sealed: str) -> None:
    with pytest.raises(NotReadable):
        unseal(sealed, KEY, PUSH_ID)


def test_what_is_sealed_and_no_json_is_not_readable() -> None:
    nonce = bytes(12)
    sealed = text_of(b"\x01" + nonce + AESGCM(KEY).encrypt(nonce, b"\xff{", PUSH_ID.encode()))

    with pytest.raises(NotReadable):
        unseal(sealed, KEY, PUSH_ID)


@given(st.text() | st.binary().map(text_of) | st.binary().map(lambda raw: text_of(b"\x01" + raw)))
def test_any_text_is_not_readable(sealed: str) -> None:
    with pytest.raises(NotReadable):
        unseal(sealed, KEY, PUSH_ID)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
def test_whatever_is_sealed_comes_out_again(fields: dict[str, str]) -> None:
    assert unseal(seal(fields, KEY, PUSH_ID), KEY, PUSH_ID) == fields


def test_no_nonce_comes_twice() -> None:
    assert len({raw_of(seal(FIELDS, KEY, PUSH_ID))[1:13] for _ in range(100)}) == 100


# --- who has the say

RANKS = [Content.FULL, Content.SENDER, Content.ENCRYPTED, Content.ID_ONLY]


@pytest.mark.parametrize("default", RANKS)
def test_the_most_private_of_deployment_conversation_and_device_holds(default: Content) -> None:
    for conversation, device in product(["", *RANKS], repeat=2):
        due = make_due(conversation_content=str(conversation), device_content=str(device), device_key=KEY)
        asked = [default, *(Content(word) for word in (conversation, device) if word)]

        assert content_of(due, default) == RANKS[max(RANKS.index(word) for word in asked)]


@pytest.mark.parametrize(
    ("default", "changes"),
    [
        (Content.ENCRYPTED, {}),
        (Content.FULL, {"conversation_content": "encrypted"}),
        (Content.SENDER, {"device_content": "encrypted"}),
    ],
)
def test_without_a_key_ids_are_all_that_is_told(default: Content, changes: dict[str, Any]) -> None:
    assert content_of(make_due(**changes), default) is Content.ID_ONLY
    assert content_of(make_due(**changes, device_key=KEY), default) is Content.ENCRYPTED


# --- what is told to whom

SECRETS = ["Ann Arbor", "Book club", "the secret", "https://a.example.com/ann.png", "https://a.example.com/tree.png"]
CALL = {"call": "c1", "sender": str(new_id()), "sender_name": "Ann Arbor", "data": {"room": "the secret"}}


def push_of(kind: Kind, **changes: Any) -> Push:
    """A push about what nobody else may know."""
    values = dict(zip(("sender_name", "text", "avatar", "image"), (SECRETS[0], *SECRETS[2:]), strict=True))
    about = {"payload": CALL, "subject": "call:c1"} if kind is Kind.CALL else {"previews": (make_preview(**values),)}
    group = {"conversation_kind": "group", "conversation_title": "Book club"}
    look = Look(words_of=Dictionary().words_of, link="app://c/{conversation}/{message}")
    return make_push(kind, look=look, **{**group, **about, **changes})


def told(push: Push) -> str:
    """All that its provider can read."""
    return json.dumps([push.title, push.body, push.data, push.thread, push.collapse], ensure_ascii=False)


KINDS = pytest.mark.parametrize("kind", [Kind.ALERT, Kind.REVISION, Kind.CALL])


@KINDS
def test_ids_only_tell_no_text_and_no_name(kind: Kind) -> None:
    push = push_of(kind, device_content="id_only", device_locale="de")

    assert [secret for secret in SECRETS if secret in told(push)] == []
    assert not {"sender", "sender_name", "avatar", "image", "data", "count"} & push.data.keys()
    assert push.title == ("Eingehender Anruf" if kind is Kind.CALL else "Neue Nachricht")
    assert push.body == ""


@KINDS
def test_what_is_encrypted_tells_others_no_text_and_no_name(kind: Kind) -> None:
    push = push_of(kind, device_content="encrypted", device_key=KEY)

    assert [secret for secret in SECRETS if secret in told(push)] == []
    assert not {"sender", "sender_name", "avatar", "image", "data", "count"} & push.data.keys()
    assert push.title == push.data["title"] == ("Incoming call" if kind is Kind.CALL else "New message")
    assert push.body == push.data["body"] == ""


@KINDS
def test_what_is_encrypted_tells_its_device_everything(kind: Kind) -> None:
    push = push_of(kind, device_content="encrypted", device_key=KEY)
    full = push_of(kind)

    inside = unseal(push.data["encrypted"], KEY, str(push.push_id))

    outside = {key: value for key, value in push.data.items() if key not in ("encrypted", "title", "body")}
    expected = {key: value for key, value in full.data.items() if key not in ("push_id", "conversation", "link")}
    same = {key: value for key, value in {**outside, **inside}.items() if key in expected}
    assert {**same, "message": "", "sender": ""} == {**expected, "message": "", "sender": ""}


def test_the_sender_is_told_without_the_text() -> None:
    push = push_of(Kind.ALERT, device_content="sender")

    assert push.body == "Ann Arbor: New message"
    assert "the secret" not in told(push)
    assert "image" not in push.data


def test_a_caller_is_told_without_the_app_s_data() -> None:
    push = push_of(Kind.CALL, device_content="sender")

    assert push.title == "Ann Arbor"
    assert "the secret" not in told(push)


def test_what_was_too_big_is_cut_to_ids() -> None:
    push = ids_only(push_of(Kind.ALERT), Words())

    assert [secret for secret in SECRETS if secret in told(push)] == []


def test_a_summary_counts_and_names_nothing() -> None:
    dues = [make_due(previews=(make_preview(text="the secret", sender_name="Ann Arbor"),)) for _ in range(2)]

    push = render_summary(dues, badge=2, look=Look(words_of=Dictionary().words_of))

    assert push.body == "2 new messages in 2 conversations"
    assert [secret for secret in SECRETS if secret in told(push)] == []


def test_a_key_is_in_no_representation() -> None:
    assert repr(KEY) not in repr(make_due(device_key=KEY))
