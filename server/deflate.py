"""
permessage-deflate (RFC 7692) for our websocket lane, without context takeover: no connection keeps a window.

A message is compressed on its own, so what is written to many connections is compressed once for all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from picows import WSUpgradeRequest

from consumers.protocol.framing import frame as make_frame

from .frames import BINARY, TEXT, Socket, is_utf8

if TYPE_CHECKING:
    from .picows_lane import PicowsLane

NAME = "permessage-deflate"
# What zlib can do; its deflate has no window of 8 bits.
WINDOWS = range(9, 16)
LARGEST = 15
# Messages are small, and compressed in the loop's thread: the fastest level takes most of what there is to gain.
LEVEL = 1
# Below this, what is gained is less than what compressing costs.
LEAST_BYTES = 96
# The end of a block that is sent without its last four bytes (RFC 7692, section 7.2).
TAIL = b"\x00\x00\xff\xff"
RSV1 = 0x40


def negotiate(headers: Iterable[str]) -> tuple[str, int] | None:
    """Choose the first of a client's offers that we can keep: the answer's header, and the bits of our window."""
    for name, parameters in _offers(headers):
        if name != NAME or len({key for key, _ in parameters}) < len(parameters):
            continue
        asked = dict(parameters)
        window = _window(asked)
        if window is None:
            continue
        answer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
        if "server_max_window_bits" in asked:
            answer += f"; server_max_window_bits={window}"
        return answer, window
    return None


def _offers(headers: Iterable[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for header in headers:
        for offer in header.split(","):
            name, *parameters = (part.strip() for part in offer.split(";"))
            pairs = (parameter.partition("=") for parameter in parameters)
            yield name.lower(), [(key.strip().lower(), value.strip().strip('"')) for key, _, value in pairs]


def _window(asked: dict[str, str]) -> int | None:
    """The bits that a client lets us use; None for an offer that cannot be kept, or makes no sense."""
    window = LARGEST
    for key, value in asked.items():
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover" if not value:
                pass
            case "client_max_window_bits" if not value or (value.isdecimal() and 8 <= int(value) <= LARGEST):
                pass
            case "server_max_window_bits" if value.isdecimal() and int(value) in WINDOWS:
                window = int(value)
            case _:
                return None
    return window


# One frame goes to many connections one after another, in up to two encodings.
@lru_cache(maxsize=8)
def compress(frame: bytes, window: int) -> bytes:
    """Compress a finished frame of ours, if that makes it smaller."""
    start = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    if len(frame) - start < LEAST_BYTES:
        return frame
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window)
    payload = compressor.compress(memoryview(frame)[start:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    compressed = make_frame(frame[0] | RSV1, payload.removesuffix(TAIL))
    return compressed if len(compressed) < len(frame) else frame


class TooLong(Exception):
    """A message is longer than it may be; it has not been unpacked further."""


def inflate(payload: bytes, limit: int) -> bytes:
    """
    Unpack a message of at most ``limit`` bytes.

    Raises:
        TooLong, zlib.error
    """
    unpacked = zlib.decompressobj(-LARGEST).decompress(payload + TAIL, limit + 1)
    if len(unpacked) > limit:
        raise TooLong
    return unpacked


class DeflateSocket(Socket):
    """A websocket whose client takes, and may send, compressed messages."""

    _is_deflated = False

    def __init__(self, lane: PicowsLane, request: WSUpgradeRequest, offered: list[str], window: int) -> None:
        super().__init__(lane, request, offered)
        self._window = window

    def write(self, frame: bytes) -> None:
        super().write(compress(frame, self._window))

    def _on_reserved(self, frame: Any) -> None:
        kind = frame.msg_type
        is_beginning = (kind is TEXT or kind is BINARY) and self._kind is None
        if frame.rsv2 or frame.rsv3 or not is_beginning:
            return super()._on_reserved(frame)
        self._is_deflated = True
        payload = frame.get_payload_as_bytes()
        if frame.fin:
            self._deliver(payload, kind is TEXT)
        else:
            self._begin_fragments(kind, payload, None)

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        if self._is_deflated:
            self._is_deflated = False
            try:
                payload = inflate(payload, self._lane.settings.max_message)
            except TooLong:
                return self.close(1009, "message too big")
            except zlib.error:
                return self.close(1007, "invalid compressed data")
            if is_text and not is_utf8(payload):
                return self.close(1007, "invalid UTF-8")
        super()._deliver(payload, is_text)
