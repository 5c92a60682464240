"""The JSON encoding: one object per line, text frames. Pure; ``Codec`` is what a second encoding has to offer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from .framing import text_frame
from .messages import Command, Publication, Push, Reply


class Undecodable(Exception):
    """A frame that is not the protocol's; the connection is closed with 3501."""


class Codec(Protocol):
    """One encoding."""

    name: str

    def decode(self, payload: bytes) -> list[Command]:
        """
        Read the commands of one frame.

        Raises:
            Undecodable: it holds none, or something else.
        """

    def encode(self, reply: Reply) -> bytes:
        """Write one reply."""

    def encode_rpc(self, id: int, data: bytes) -> bytes:
        """Write the answer to an rpc; ``data`` goes in as it is."""

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        """Write a publication's push."""

    def frame(self, replies: Sequence[bytes]) -> bytes:
        """Put replies into one finished frame."""


class JsonCodec:
    """Lines of JSON."""

    name = "json"

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Command).decode
        self._encoder = msgspec.json.Encoder()

    def decode(self, payload: bytes) -> list[Command]:
        try:
            # Nearly every frame has one command.
            if b"\n" not in payload:
                return [self._decode(payload)]
            return [self._decode(line) for line in _lines(payload)]
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Undecodable(str(error)) from None

    def encode(self, reply: Reply) -> bytes:
        return self._encoder.encode(reply)

    def encode_rpc(self, id: int, data: bytes) -> bytes:
        return b'{"id":%d,"rpc":{"data":%b}}' % (id, data)

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        return self._encoder.encode(Reply(push=Push(channel=channel, pub=publication)))

    def frame(self, replies: Sequence[bytes]) -> bytes:
        return text_frame(replies[0] if len(replies) == 1 else b"\n".join(replies))


def _lines(payload: bytes) -> Iterable[bytes]:
    lines = payload.removesuffix(b"\n").split(b"\n")
    if not all(lines):
        raise Undecodable("an empty line")
    return lines


JSON = JsonCodec()
