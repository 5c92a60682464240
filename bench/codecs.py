"""``python -m bench.codecs``: what an rpc costs in either encoding, without a socket."""

from __future__ import annotations

import timeit
from collections.abc import Callable

from consumers.protocol.client_pb2 import Command
from consumers.protocol.json import JsonCodec
from consumers.protocol.protobuf import ProtobufCodec

DATA = b'{"text":"' + b"x" * 200 + b'"}'
ROUNDS = 200_000


def main() -> None:
    json, protobuf = JsonCodec(), ProtobufCodec()
    text = b'{"id":7,"rpc":{"method":"ping","data":' + DATA + b"}}"
    command = Command(id=7)
    command.rpc.method, command.rpc.data = "ping", DATA
    body = command.SerializeToString()
    # Its length in two bytes, seven bits in each.
    delimited = bytes([len(body) & 127 | 128, len(body) >> 7]) + body
    works: dict[str, Callable[[], object]] = {
        "decode, JSON": lambda: json.decode(text),
        "decode, Protobuf": lambda: protobuf.decode(delimited),
        "encode, JSON": lambda: json.encode_rpc(7, DATA),
        "encode, Protobuf": lambda: protobuf.encode_rpc(7, DATA),
    }
    for name, work in works.items():
        print(f"{name:20} {min(timeit.repeat(work, number=ROUNDS, repeat=3)) / ROUNDS * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
