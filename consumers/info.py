"""What others may know of a client: kept with publications and presence, shown on the wire."""

from __future__ import annotations

from typing import Self

import msgspec

from .protocol.codec import Codec, Unsuitable
from .protocol.messages import NOTHING, ClientInfo, Raw


class Info(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``conn`` was given when the client authenticated, ``chan`` with its subscription; any bytes."""

    user: str
    client: str
    conn: bytes = b""
    chan: bytes = b""

    @classmethod
    def read(cls, stored: bytes) -> Self:
        return _decode(stored)  # type: ignore[return-value]

    def store(self) -> bytes:
        return _encode(self)

    def to_wire(self, codec: Codec) -> ClientInfo:
        return ClientInfo(self.user, self.client, _carried(self.conn, codec), _carried(self.chan, codec))


def _carried(data: bytes, codec: Codec) -> Raw:
    """Details that an encoding cannot carry are left out: they are no reason to lose a connection."""
    try:
        return codec.check(data) if data else NOTHING
    except Unsuitable:
        return NOTHING


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Info).decode
