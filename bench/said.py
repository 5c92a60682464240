"""What clients say: the lines of the load client, in JSON or as the same in Protobuf."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.internal.encoder import _VarintBytes
from google.protobuf.json_format import ParseDict

from consumers.protocol.client_pb2 import Command

PAYLOAD_BYTES = 200
# Who comes back has so many conversations, each with so many members.
CONVERSATIONS = 20
NEIGHBOURS = 100
# Seven places that the load client fills with a number of its own, so that no two messages are repeats.
NUMBER = "@@@@@@@"
# A reply to an rpc with id 3, in both encodings.
ANSWERED = '"id":3'
_ANSWERED_PROTOBUF = "08036a"


class Said(NamedTuple):
    """What a client says first, what it says under load, and what to count in the answers (nothing: frames)."""

    init: Sequence[str]
    send: Sequence[str]
    mark: str


def in_protobuf(said: Said) -> Said:
    """Say the same in Protobuf, as hexadecimal lines."""
    mark = _ANSWERED_PROTOBUF if said.mark == ANSWERED else _text_mark(said.mark).encode().hex()
    return Said([_line(line) for line in said.init], [_line(line) for line in said.send], mark)


def _text_mark(mark: str) -> str:
    # The frame around a publication has no names in Protobuf; its data is the same text.
    return '"text"' if mark == '"pub":{' else mark


def _line(line: str) -> str:
    return "\t".join(_command(part).hex() for part in line.split("\t"))


def _command(text: str) -> bytes:
    command: dict[str, Any] = json.loads(text.replace("%s", "x" * PAYLOAD_BYTES))
    for member in command.values():
        if isinstance(member, dict) and "data" in member:
            data = json.dumps(member["data"], separators=(",", ":")).encode()
            member["data"] = base64.b64encode(data).decode()
    encoded = ParseDict(command, Command()).SerializeToString()
    return bytes(_VarintBytes(len(encoded))) + encoded
