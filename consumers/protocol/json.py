"""The JSON encoding: one object per line, text frames. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .codec import Codec, Undecodable, Unsuitable
from .framing import text_frame
from .messages import Command, Publication, Push, Raw, Reply


class JsonCodec:
    """Lines of JSON."""

    name = "json"
    subprotocol = "centrifuge-json"
    is_text = True

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Command).decode
        self._check = msgspec.json.Decoder(Raw).decode
        self._encoder = msgspec.json.Encoder()
        self.ping = self.frame([b"{}"])

    def decode(self, payload: bytes) -> list[Command]:
        try:
            # Nearly every frame has one command.
            if b"\n" not in payload:
                return [self._decode(payload)]
            return [self._decode(line) for line in _lines(payload)]
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Undecodable(str(error)) from None

    def check(self, data: bytes) -> Raw:
        try:
            if not data.isascii():
                data.decode()
            self._check(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Unsuitable from None
        # A line break would end the line; within JSON it means nothing.
        return Raw(msgspec.json.format(data, indent=-1) if b"\n" in data or b"\r" in data else data)

    def wrap_delta(self, data: bytes) -> Raw:
        try:
            return Raw(self._encoder.encode(data.decode()))
        except UnicodeDecodeError:
            raise Unsuitable from None

    def encode(self, reply: Reply) -> bytes:
        return self._encoder.encode(reply)

    def encode_rpc(self, id: int, data: bytes) -> bytes:
        return b'{"id":%d,"rpc":{"data":%b}}' % (id, data)

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        return self._encoder.encode(Reply(push=Push(channel=channel, pub=publication)))

    def frame(self, replies: Sequence[bytes]) -> bytes:
        return text_frame(replies[0] if len(replies) == 1 else b"\n".join(replies))

    def body(self, replies: Sequence[bytes]) -> bytes:
        return b"\n".join(replies) + b"\n"


def _lines(payload: bytes) -> Iterable[bytes]:
    lines = payload.removesuffix(b"\n").split(b"\n")
    if not all(lines):
        raise Undecodable("an empty line")
    return lines


JSON: Codec = JsonCodec()
