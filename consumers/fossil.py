"""
Fossil deltas: a patch that turns one byte string into another, for publications that differ little. Pure.

The format is section 7 of the protocol's specification. Any correct patch will do; this encoder looks for blocks of the
source in the target and extends what it finds, in time linear in both.
"""

from __future__ import annotations

import struct

BLOCK = 16
_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
# Copies cost some bytes themselves; shorter ones are not worth it.
_SHORTEST_COPY = 12


def make_patch(source: bytes, target: bytes, *, is_text: bool) -> bytes | None:
    """
    Make the patch from ``source`` to ``target``, or None if it would not be smaller than the target.

    ``is_text``: both are UTF-8, and so is the patch: no character is cut.
    """
    parts = [_number(len(target)), b"\n"]
    size = 0
    copied_to = 0
    for start, offset, length in _matches(source, target):
        if is_text:
            start, offset, length = _whole_characters(target, start, offset, length)
            if length < _SHORTEST_COPY:
                continue
        if start > copied_to:
            _insert(parts, target[copied_to:start])
        parts += (_number(length), b"@", _number(offset), b",")
        copied_to = start + length
        size = sum(map(len, parts))
        if size >= len(target):
            return None
    if copied_to < len(target):
        _insert(parts, target[copied_to:])
    parts += (_number(checksum(target)), b";")
    patch = b"".join(parts)
    return patch if len(patch) < len(target) else None


def apply_patch(source: bytes, patch: bytes) -> bytes:
    """
    Turn the source into the target, as clients do.

    Raises:
        ValueError: it is no patch for this source.
    """
    size, place = _read_number(patch, 0)
    if patch[place : place + 1] != b"\n":
        raise ValueError("no length")
    place += 1
    target = bytearray()
    while place < len(patch):
        number, place = _read_number(patch, place)
        command, place = patch[place : place + 1], place + 1
        if command == b"@":
            offset, place = _read_number(patch, place)
            if patch[place : place + 1] != b"," or offset + number > len(source):
                raise ValueError("a copy beyond the source")
            place += 1
            target += source[offset : offset + number]
        elif command == b":":
            target += patch[place : place + number]
            place += number
        elif command == b";":
            if len(target) != size or checksum(bytes(target)) != number:
                raise ValueError("another target")
            return bytes(target)
        else:
            raise ValueError("an unknown command")
    raise ValueError("no end")


def checksum(data: bytes) -> int:
    """The sum of all big-endian words, the last one padded with zeros, modulo 2**32."""
    padded = data + bytes(-len(data) % 4)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 4}I", padded)
    return sum(words) & 0xFFFFFFFF


def _matches(source: bytes, target: bytes) -> list[tuple[int, int, int]]:
    """What of the target is in the source, in order: (start in the target, offset in the source, length)."""
    blocks: dict[bytes, int] = {}
    for offset in range(0, len(source) - BLOCK + 1, BLOCK):
        blocks.setdefault(source[offset : offset + BLOCK], offset)
    found = []
    place = done = 0
    # Most payloads of a channel begin alike.
    same = _same(source, 0, target, 0)
    if same >= BLOCK:
        found.append((0, 0, same))
        place = done = same
    while place <= len(target) - BLOCK:
        offset = blocks.get(target[place : place + BLOCK], -1)
        if offset < 0:
            place += 1
            continue
        back = _same_before(source, offset, target, place, place - done)
        length = back + _same(source, offset, target, place)
        found.append((place - back, offset - back, length))
        place = done = place - back + length
    # And most end alike; what is shorter than a block is found here.
    tail = _same_before(source, len(source), target, len(target), len(target) - done)
    if tail >= _SHORTEST_COPY:
        found.append((len(target) - tail, len(source) - tail, tail))
    return found


def _same(source: bytes, offset: int, target: bytes, place: int) -> int:
    """How many bytes are the same from here on."""
    most = min(len(source) - offset, len(target) - place)
    low, step = 0, 64
    # Whole slices are compared much faster than bytes.
    while low < most:
        piece = min(step, most - low)
        if source[offset + low : offset + low + piece] == target[place + low : place + low + piece]:
            low += piece
        elif piece == 1:
            break
        else:
            step = max(piece // 2, 1)
    return low


def _same_before(source: bytes, offset: int, target: bytes, place: int, most: int) -> int:
    most = min(most, offset, place)
    length = 0
    while length < most and source[offset - length - 1] == target[place - length - 1]:
        length += 1
    return length


def _whole_characters(target: bytes, start: int, offset: int, length: int) -> tuple[int, int, int]:
    """Shorten a copy so that it begins and ends between characters."""
    while length and target[start] & 0xC0 == 0x80:
        start, offset, length = start + 1, offset + 1, length - 1
    end = start + length
    while length and end < len(target) and target[end] & 0xC0 == 0x80:
        end, length = end - 1, length - 1
    return start, offset, length


def _insert(parts: list[bytes], data: bytes) -> None:
    parts += (_number(len(data)), b":", data)


def _number(value: int) -> bytes:
    digits = bytearray()
    while True:
        value, digit = divmod(value, 64)
        digits.append(_DIGITS[digit])
        if not value:
            return bytes(reversed(digits))


def _read_number(patch: bytes, place: int) -> tuple[int, int]:
    value, start = 0, place
    while place < len(patch) and (digit := _DIGITS.find(patch[place])) >= 0:
        value = value * 64 + digit
        place += 1
    if place == start:
        raise ValueError("no number")
    return value, place
