"""The Protobuf encoding: byte vectors of the specification, the same structs as in JSON, and any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.protocol import messages
from consumers.protocol.client_pb2 import Command as CommandMessage
from consumers.protocol.client_pb2 import EmulationRequest as EmulationMessage
from consumers.protocol.client_pb2 import Reply as ReplyMessage
from consumers.protocol.codec import Codec, Undecodable, Unsuitable
from consumers.protocol.json import JSON
from consumers.protocol.messages import Command, Publication, Push, Raw, Reply
from consumers.protocol.protobuf import PROTOBUF, _fill, decode_emulation

from .test_json import COMMANDS
from .wire import payload

# Section 6.2 of the specification.
COMMAND_BYTES = {
    "00": messages.PONG,
    "04 08 01 22 00": Command(id=1, connect=messages.ConnectRequest()),
    "0c 08 01 22 08 0a 01 74 22 01 78 38 01": Command(id=1, connect=messages.ConnectRequest(token="t", name="x")),
    "0f 08 02 2a 0b 0a 01 63 18 01 32 01 65 38 ac 02": Command(
        id=2, subscribe=messages.SubscribeRequest(channel="c", recover=True, epoch="e", offset=300)
    ),
}
REPLY_BYTES = {
    "00": Reply(),
    "0e 08 01 2a 0a 0a 01 61 12 01 31 38 19 40 01": Reply(
        id=1, connect=messages.ConnectResult(client="a", version="1", ping=25, pong=True)
    ),
    "12 08 02 32 0e 18 01 32 01 65 40 01 48 ac 02 50 01 60 01": Reply(
        id=2,
        subscribe=messages.SubscribeResult(
            recoverable=True, epoch="e", recovered=True, offset=300, positioned=True, was_recovering=True
        ),
    ),
    "0c 22 0a 12 01 63 22 05 22 01 78 30 01": Reply(push=Push(channel="c", pub=Publication(data=Raw(b"x"), offset=1))),
    "0d 22 0b 12 01 63 3a 06 10 c4 13 1a 01 72": Reply(
        push=Push(channel="c", unsubscribe=messages.Unsubscribed(2500, "r"))
    ),
    "0a 08 03 12 06 08 67 12 02 6e 6f": Reply(id=3, error=messages.Error(103, "no")),
    "04 08 04 42 00": Reply(id=4, publish=messages.Empty()),
}


@pytest.mark.parametrize("text", COMMAND_BYTES)
def test_commands_of_the_specification_are_read(text: str) -> None:
    assert PROTOBUF.decode(bytes.fromhex(text)) == [COMMAND_BYTES[text]]


@pytest.mark.parametrize("text", REPLY_BYTES)
def test_replies_of_the_specification_are_written(text: str) -> None:
    assert PROTOBUF.encode(REPLY_BYTES[text]) == bytes.fromhex(text)


def delimited(command: Command) -> bytes:
    message = CommandMessage()
    _fill(message, command)
    return vector(message.SerializeToString())


def vector(message: bytes) -> bytes:
    """A message behind its length, written in the slowest way."""
    size, digits = len(message), []
    while size >= 128:
        size, digit = divmod(size, 128)
        digits.append(digit | 128)
    return bytes([*digits, size]) + message


@pytest.mark.parametrize("text", COMMANDS)
def test_both_encodings_say_the_same(text: str) -> None:
    assert PROTOBUF.decode(delimited(COMMANDS[text])) == [COMMANDS[text]]


def test_a_filter_is_read_with_all_its_parts() -> None:
    tree = messages.FilterNode(
        op="and",
        nodes=[
            messages.FilterNode(key="a", cmp="in", vals=["1", "2"]),
            messages.FilterNode(op="not", nodes=[messages.FilterNode(key="b", cmp="eq", val="x")]),
        ],
    )
    command = Command(id=1, subscribe=messages.SubscribeRequest(channel="c", tf=tree))

    assert PROTOBUF.decode(delimited(command)) == [command]


def test_a_frame_may_hold_many_commands() -> None:
    commands = [*COMMANDS.values(), messages.PONG]

    assert PROTOBUF.decode(b"".join(map(delimited, commands))) == commands


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_383, 16_384, 60_000])
def test_lengths_of_every_size(size: int) -> None:
    command = Command(id=1, publish=messages.PublishRequest("c", Raw(b"x" * size) if size else messages.NOTHING))

    assert PROTOBUF.decode(delimited(command) * 2) == [command] * 2
    publication = Publication(data=Raw(b"x" * size), offset=size)
    reply = ReplyMessage.FromString(unwrapped(PROTOBUF.encode_publication("c" * 50, publication)))
    assert (reply.push.channel, len(reply.push.pub.data), reply.push.pub.offset) == ("c" * 50, size, size)
    answer = ReplyMessage.FromString(unwrapped(PROTOBUF.encode_rpc(size + 1, b"y" * size)))
    assert (answer.id, len(answer.rpc.data), answer.HasField("rpc")) == (size + 1, size, True)


def unwrapped(piece: bytes) -> bytes:
    """What stands behind the length, which has to be right."""
    for start in range(1, 6):
        if vector(piece[start:]) == piece:
            return piece[start:]
    raise AssertionError(piece)


def test_a_publication_has_its_publisher_and_tags() -> None:
    info = messages.ClientInfo("7", "c1", Raw(b"\xff"), Raw(b"{}"))
    publication = Publication(data=Raw(b"x"), info=info, offset=3, tags={"a": "b"}, delta=True)

    pub = ReplyMessage.FromString(unwrapped(PROTOBUF.encode_publication("c", publication))).push.pub

    assert (pub.data, pub.offset, dict(pub.tags), pub.delta) == (b"x", 3, {"a": "b"}, True)
    assert (pub.info.user, pub.info.client, pub.info.conn_info, pub.info.chan_info) == ("7", "c1", b"\xff", b"{}")


def test_results_with_lists_and_maps() -> None:
    publications = [Publication(data=Raw(b"x"), offset=1), Publication(data=Raw(b"y"), offset=2)]
    subs = {"c": messages.SubscribeResult(recovered=True, publications=publications)}
    reply = Reply(id=1, connect=messages.ConnectResult(client="a", version="1", data=Raw(b"{}"), subs=subs))
    presence = Reply(id=2, presence=messages.PresenceResult({"c1": messages.ClientInfo("7", "c1")}))

    connect = ReplyMessage.FromString(unwrapped(PROTOBUF.encode(reply))).connect
    found = ReplyMessage.FromString(unwrapped(PROTOBUF.encode(presence))).presence

    assert [(pub.data, pub.offset) for pub in connect.subs["c"].publications] == [(b"x", 1), (b"y", 2)]
    assert connect.data == b"{}"
    assert found.presence["c1"].user == "7"


def test_frames_are_binary_and_bodies_are_plain() -> None:
    replies = [PROTOBUF.encode(Reply(id=number, publish=messages.Empty())) for number in (1, 2)]

    assert PROTOBUF.frame(replies)[0] == 0x82
    assert payload(PROTOBUF.frame(replies)) == PROTOBUF.body(replies) == b"".join(replies)
    assert payload(PROTOBUF.ping) == b"\0"


def test_json_carries_json_only_and_on_one_line() -> None:
    assert bytes(JSON.check(b'{"a" : 1}')) == b'{"a" : 1}'
    assert b"\n" not in bytes(JSON.check(b'{\r\n"a": "\xc3\xa9"\n}'))
    for bad in (b"", b"\xff", b'"\xff"', b"{", b"plain", b"1 2"):
        with pytest.raises(Unsuitable):
            JSON.check(bad)
    assert bytes(PROTOBUF.check(b"\xff")) == b"\xff"


@pytest.mark.parametrize(
    "bad",
    [
        "",  # no command at all
        "05",  # shorter than it says
        "80",  # a length without end
        "ff ff ff ff ff ff",
        "01 ff",  # no field
        "04 08 01 22 05",  # an inner message that is cut off
        "07 08 01 2a 03 0a 01 ff",  # a name that is not UTF-8
    ],
)
def test_what_is_not_the_protocol_is_refused(bad: str) -> None:
    with pytest.raises(Undecodable):
        PROTOBUF.decode(bytes.fromhex(bad))


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=lambda codec: codec.name)
@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_commands_or_refused(codec: Codec, data: bytes) -> None:
    try:
        commands = codec.decode(data)
    except Undecodable:
        return

    assert commands
    assert all(isinstance(command, Command) for command in commands)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_spoilt_commands_are_commands_or_refused(data: st.DataObject) -> None:
    frame = bytearray(
        b"".join(map(delimited, data.draw(st.lists(st.sampled_from(list(COMMANDS.values())), min_size=1))))
    )
    for place in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=4)):
        frame[place] = data.draw(st.integers(0, 255))

    try:
        commands = PROTOBUF.decode(bytes(frame))
    except Undecodable:
        return

    assert all(isinstance(command, Command) for command in commands)


def test_deep_nesting_is_refused() -> None:
    deep = b""
    for _ in range(500):
        deep = b"\x32" + vector(deep)
    subscribe = b"\x6a" + vector(deep)

    with pytest.raises(Undecodable):
        PROTOBUF.decode(vector(b"\x08\x01\x2a" + vector(subscribe)))


def test_later_commands_of_a_fallback() -> None:
    body = EmulationMessage(node="n", session="s", data=b"\0").SerializeToString()

    assert decode_emulation(body) == messages.EmulationRequest("n", "s", Raw(b"\0"))
    with pytest.raises(Undecodable):
        decode_emulation(b"\xff")
