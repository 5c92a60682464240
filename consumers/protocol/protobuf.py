"""
The Protobuf encoding: length-delimited messages, binary frames. Pure.

``client_pb2`` reads and writes; the structs of ``messages`` have the same names. What goes out most often (replies to
rpc, publications) is put together by hand, because copying it into message objects first costs several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec
from google.protobuf.message import DecodeError

from . import messages
from .client_pb2 import Command as CommandMessage
from .client_pb2 import EmulationRequest as EmulationMessage
from .client_pb2 import Publication as PublicationMessage
from .client_pb2 import Reply as ReplyMessage
from .codec import Codec, Undecodable
from .framing import binary_frame
from .messages import Command, EmulationRequest, Publication, Raw, Reply, RPCRequest

# Ten bytes hold 64 bits; a length needs far fewer.
MAX_LENGTH_BYTES = 5


class ProtobufCodec:
    """Length-delimited messages."""

    name = "protobuf"
    subprotocol = "centrifuge-protobuf"
    is_text = False

    def __init__(self) -> None:
        self.ping = self.frame([b"\0"])

    def decode(self, payload: bytes) -> list[Command]:
        commands = [_command(piece) for piece in _pieces(payload)]
        if not commands:
            raise Undecodable("an empty frame")
        return commands

    def check(self, data: bytes) -> Raw:
        return Raw(data)

    def wrap_delta(self, data: bytes) -> Raw:
        return Raw(data)

    def encode(self, reply: Reply) -> bytes:
        message = ReplyMessage()
        _fill(message, reply)
        return _delimited(message.SerializeToString())

    def encode_rpc(self, id: int, data: bytes) -> bytes:
        return _delimited(b"\x08" + _varint(id) + _member(0x6A, _member(0x0A, data) if data else b""))

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        pub = _member(0x22, bytes(publication.data))
        if publication.offset:
            pub += b"\x30" + _varint(publication.offset)
        if publication.info or publication.tags or publication.delta:
            # Parts of a message may follow each other.
            rest = PublicationMessage()
            _fill(rest, msgspec.structs.replace(publication, data=messages.NOTHING, offset=0))
            pub += rest.SerializeToString()
        return _delimited(_member(0x22, _member(0x12, channel.encode()) + _member(0x22, pub)))

    def frame(self, replies: Sequence[bytes]) -> bytes:
        return binary_frame(replies[0] if len(replies) == 1 else b"".join(replies))

    def body(self, replies: Sequence[bytes]) -> bytes:
        return b"".join(replies)


def decode_emulation(payload: bytes) -> EmulationRequest:
    """
    Read the body of a request that carries later commands.

    Raises:
        Undecodable: it is none.
    """
    try:
        message = EmulationMessage.FromString(payload)
    except DecodeError as error:
        raise Undecodable(str(error)) from None
    return EmulationRequest(message.node, message.session, Raw(message.data))


# --- reading


def _pieces(payload: bytes) -> list[bytes]:
    """Cut a frame into messages."""
    # Nearly every frame has one command, shorter than 128 bytes.
    if payload and payload[0] == len(payload) - 1 < 0x80:
        return [payload[1:]]
    pieces = []
    place = 0
    while place < len(payload):
        size, place = _length(payload, place)
        if size > len(payload) - place:
            raise Undecodable("a message is cut off")
        pieces.append(payload[place : place + size])
        place += size
    return pieces


def _length(payload: bytes, place: int) -> tuple[int, int]:
    size = 0
    for number, byte in enumerate(payload[place : place + MAX_LENGTH_BYTES]):
        size |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return size, place + number + 1
    raise Undecodable("a length is cut off")


def _command(piece: bytes) -> Command:
    if not piece:
        return Command()
    try:
        message = CommandMessage.FromString(piece)
    except DecodeError as error:
        raise Undecodable(str(error)) from None
    if message.HasField("rpc"):
        rpc = message.rpc
        return Command(message.id, RPCRequest(Raw(rpc.data) if rpc.data else messages.NOTHING, rpc.method))
    command = Command(message.id)
    for field, value in message.ListFields():
        if field.number > 1:
            setattr(command, field.name, _read(_REQUESTS[field.name], value))
            # If several are set, the first counts.
            break
    return command


def _read(struct: Any, message: Any) -> Any:
    """Copy a message into a struct."""
    kinds = _KINDS[struct]
    found = {}
    for field, value in message.ListFields():
        kind = kinds.get(field.name)
        if kind is None:
            found[field.name] = value
        elif kind is Raw:
            found[field.name] = Raw(value)
        else:
            found[field.name] = kind(value)
    return struct(**found)


def _reader(hint: Any) -> Any:
    """How a member of this type is read; None for what is taken as it is."""
    inner = [_struct_in(argument) for argument in get_args(hint)] or [_struct_in(hint)]
    struct = next((found for found in inner if found), None)
    origin = getattr(hint, "__origin__", None)
    if hint is Raw:
        return Raw
    if origin is list:
        return (lambda values: [_read(struct, value) for value in values]) if struct else list
    if origin is dict:
        return (lambda values: {key: _read(struct, value) for key, value in values.items()}) if struct else dict
    return (lambda value: _read(struct, value)) if struct else None


def _struct_in(hint: Any) -> Any:
    return hint if isinstance(hint, type) and issubclass(hint, messages.Message) else None


_STRUCTS = [struct for struct in vars(messages).values() if _struct_in(struct)]
_KINDS = {
    struct: {name: reader for name, hint in get_type_hints(struct).items() if (reader := _reader(hint))}
    for struct in _STRUCTS
}
_REQUESTS = {
    name: next(found for argument in get_args(hint) if (found := _struct_in(argument)))
    for name, hint in get_type_hints(Command).items()
    if get_args(hint)
}


# --- writing


def _fill(message: Any, struct: Any) -> None:
    """Copy a struct into a message; what has its default stays out."""
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            part = getattr(message, name)
            # Present, even if nothing is in it.
            part.SetInParent()
            _fill(part, value)
        elif not value:
            continue
        elif isinstance(value, Raw):
            setattr(message, name, bytes(value))
        elif isinstance(value, list):
            _fill_list(getattr(message, name), value)
        elif isinstance(value, dict):
            _fill_map(getattr(message, name), value)
        else:
            setattr(message, name, value)


def _fill_list(target: Any, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, msgspec.Struct):
            _fill(target.add(), value)
        else:
            target.append(value)


def _fill_map(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, msgspec.Struct):
            # Looking it up makes it.
            _fill(target[key], value)
        else:
            target[key] = value


def _member(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    return bytes((tag,)) + _varint(size) + value


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


PROTOBUF: Codec = ProtobufCodec()
