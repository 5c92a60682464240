"""Fossil deltas: a patch turns the source into the target, whatever the two are, and is smaller than it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.fossil import apply_patch, checksum, make_patch

SOURCE = b'{"step":1,"value":"hello world"}'
TARGET = b'{"step":2,"value":"hello world"}'


def test_the_example_of_the_specification() -> None:
    assert apply_patch(SOURCE, b"W\n8@0,1:2N@9,28gKuF;") == TARGET
    assert apply_patch(SOURCE, make_patch(SOURCE, TARGET, is_text=True) or b"") == TARGET


@pytest.mark.parametrize(("data", "total"), [(b"", 0), (b"\x01", 0x01000000), (b"\xff" * 8, 0xFFFFFFFE)])
def test_the_checksum(data: bytes, total: int) -> None:
    assert checksum(data) == total


def test_a_small_change_in_a_large_payload_makes_a_small_patch() -> None:
    source = json.dumps({"rows": [{"id": number, "price": number * 3} for number in range(200)]}).encode()
    target = source.replace(b'"price": 300', b'"price": 301').replace(b'"id": 150', b'"id": 1500')

    patch = make_patch(source, target, is_text=True)

    assert patch is not None
    assert len(patch) < 60
    assert apply_patch(source, patch) == target


def test_what_moved_is_found() -> None:
    one, other = b"a" * 10 + b"0123456789abcdefghijklmnopqrstuv" * 3, b"The quick brown fox jumps over the lazy dog."

    patch = make_patch(one + other, other + b"!" + one, is_text=False)

    assert patch is not None
    assert apply_patch(one + other, patch) == other + b"!" + one


def test_there_is_no_patch_where_it_does_not_pay() -> None:
    assert make_patch(b"", b"abc", is_text=False) is None
    assert make_patch(b"x" * 100, b"y" * 100, is_text=False) is None
    assert make_patch(SOURCE, b"", is_text=True) is None


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30), st.binary(max_size=30))))
def test_any_edits(source: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    target = source
    for place, removed, inserted in edits:
        target = target[:place] + inserted + target[place + removed :]

    patch = make_patch(source, target, is_text=False)

    if patch is not None:
        assert len(patch) < len(target)
        assert apply_patch(source, patch) == target


@given(st.text(max_size=100), st.text(max_size=100), st.text(max_size=100), st.text(max_size=10))
def test_text_stays_text(one: str, other: str, more: str, change: str) -> None:
    source, target = (one + other + more).encode(), (one + change + more + other).encode()

    patch = make_patch(source, target, is_text=True)

    if patch is not None:
        patch.decode()
        assert apply_patch(source, patch) == target


def test_characters_are_not_cut() -> None:
    source, target = ("é" * 40 + "x").encode(), ("é" * 20 + "è" + "é" * 19 + "x").encode()

    patch = make_patch(source, target, is_text=True)

    assert patch is not None
    assert apply_patch(source, patch.decode().encode()) == target


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_no_patch_is_refused(source: bytes, patch: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        apply_patch(source, patch)
