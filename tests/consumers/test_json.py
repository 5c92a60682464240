"""The JSON encoding: what clients may send, what is refused, and how answers look byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from consumers.protocol import framing, messages
from consumers.protocol.codes import ErrorCode
from consumers.protocol.json import JSON, Undecodable
from consumers.protocol.messages import Command, Push, Raw, Reply

from .wire import payload

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

COMMANDS = {
    '{"id":1,"connect":{"token":"t","data":{"a":1},"subs":{"chat:1":{"recover":true,"offset":7}},"name":"js"}}': (
        Command(
            id=1,
            connect=messages.ConnectRequest(
                token="t",
                data=Raw(b'{"a":1}'),
                subs={"chat:1": messages.SubscribeRequest(recover=True, offset=7)},
                name="js",
            ),
        )
    ),
    '{"id":2,"subscribe":{"channel":"feed:1","recover":true,"epoch":"e","offset":3,"flag":2}}': Command(
        id=2, subscribe=messages.SubscribeRequest(channel="feed:1", recover=True, epoch="e", offset=3, flag=2)
    ),
    '{"id":3,"unsubscribe":{"channel":"feed:1"}}': Command(
        id=3, unsubscribe=messages.UnsubscribeRequest(channel="feed:1")
    ),
    '{"id":4,"publish":{"channel":"chat:1","data":[1, 2]}}': Command(
        id=4, publish=messages.PublishRequest(channel="chat:1", data=Raw(b"[1, 2]"))
    ),
    '{"id":5,"presence":{"channel":"chat:1"}}': Command(id=5, presence=messages.PresenceRequest(channel="chat:1")),
    '{"id":6,"presence_stats":{"channel":"chat:1"}}': Command(
        id=6, presence_stats=messages.PresenceRequest(channel="chat:1")
    ),
    '{"id":7,"history":{"channel":"chat:1","limit":-1,"since":{"offset":4,"epoch":"e"},"reverse":true}}': Command(
        id=7,
        history=messages.HistoryRequest(
            channel="chat:1", limit=-1, since=messages.StreamPosition(4, "e"), reverse=True
        ),
    ),
    '{"id":8,"rpc":{"method":"ping","data":"x"}}': Command(
        id=8, rpc=messages.RPCRequest(method="ping", data=Raw(b'"x"'))
    ),
    '{"send":{"data":{}}}': Command(send=messages.SendRequest(data=Raw(b"{}"))),
    '{"id":9,"refresh":{"token":"t"}}': Command(id=9, refresh=messages.RefreshRequest(token="t")),
    '{"id":10,"sub_refresh":{"channel":"feed:1","token":"t"}}': Command(
        id=10, sub_refresh=messages.SubRefreshRequest(channel="feed:1", token="t")
    ),
    "{}": messages.PONG,
}


@pytest.mark.parametrize("text", COMMANDS)
def test_every_command_is_understood(text: str) -> None:
    assert JSON.decode(text.encode()) == [COMMANDS[text]]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_frame_may_hold_many_commands_one_a_line(end: str) -> None:
    assert JSON.decode(("\n".join(COMMANDS) + end).encode()) == list(COMMANDS.values())


def test_what_newer_clients_say_beside_is_passed_over() -> None:
    text = b'{"id":1,"rpc":{"method":"ping","priority":"high"},"trace":{"span":1}}'

    assert JSON.decode(text) == [Command(id=1, rpc=messages.RPCRequest(method="ping"))]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n",
        b"{}\n\n{}",
        b"\n{}",
        b"{}\n\n",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"connect"',
        b"{}{}",
        b"{'id':1}",
        b'{"id":"1"}',
        b'{"id":1.5}',
        b'{"id":null}',
        b'{"id":1,"rpc":[]}',
        b'{"id":1,"rpc":{"method":7}}',
        b'{"id":1,"connect":{"subs":[]}}',
        b'{"id":1,"subscribe":{"offset":-1e400}}',
        b'{"id":1,"history":{"since":0}}',
        b"\xff\xfe",
        b'{"id":1,"rpc":{"method":"\xff"}}',
        b'{"id":1,"rpc":{"method":"ping","data":{}}',
        b'{"id":1,"rpc":{"data":' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    ],
    ids=lambda bad: repr(bad[:40]),
)
def test_what_is_not_the_protocol_is_refused_by_one_error(bad: bytes) -> None:
    with pytest.raises(Undecodable):
        JSON.decode(bad)


@given(st.binary() | st.text().map(str.encode) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_frame_raises_anything_else(frame: bytes) -> None:
    try:
        commands = JSON.decode(frame)
    except Undecodable:
        return
    assert all(isinstance(command, Command) for command in commands)


@given(JSON_VALUES)
def test_the_data_of_a_call_comes_back_as_it_was(value: Any) -> None:
    data = json.dumps(value).encode()
    (command,) = JSON.decode(b'{"id":1,"rpc":{"method":"ping","data":%b}}' % data)
    assert command.rpc

    assert json.loads(JSON.encode_rpc(1, bytes(command.rpc.data))) == {"id": 1, "rpc": {"data": value}}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(), "{}"),
        (Reply(id=3, publish=messages.Empty()), '{"id":3,"publish":{}}'),
        (
            Reply(id=4, error=messages.Error(109, ErrorCode.TOKEN_EXPIRED.reason)),
            '{"id":4,"error":{"code":109,"message":"token expired"}}',
        ),
        (
            Reply(id=5, subscribe=messages.SubscribeResult(recoverable=True, epoch="e", offset=2, recovered=True)),
            '{"id":5,"subscribe":{"recoverable":true,"epoch":"e","recovered":true,"offset":2}}',
        ),
        (
            Reply(id=6, connect=messages.ConnectResult(client="c", version="v", ping=25, pong=True)),
            '{"id":6,"connect":{"client":"c","version":"v","ping":25,"pong":true}}',
        ),
        (
            Reply(id=7, history=messages.HistoryResult(publications=[], epoch="e", offset=0)),
            '{"id":7,"history":{"publications":[],"epoch":"e","offset":0}}',
        ),
        (
            Reply(push=Push(channel="feed:1", unsubscribe=messages.Unsubscribed(2000, "server unsubscribe"))),
            '{"push":{"channel":"feed:1","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}',
        ),
    ],
)
def test_answers_leave_out_what_says_nothing(reply: Reply, text: str) -> None:
    assert JSON.encode(reply) == text.encode()


def test_a_publication_carries_its_data_untouched() -> None:
    publication = messages.Publication(data=Raw(b'{"type":"message.sent"}'), offset=9, tags={"a": "b"})

    assert json.loads(JSON.encode_publication("chat:1", publication)) == {
        "push": {"channel": "chat:1", "pub": {"data": {"type": "message.sent"}, "offset": 9, "tags": {"a": "b"}}}
    }


def test_answers_that_share_a_frame_stand_one_a_line() -> None:
    assert payload(JSON.frame([b"{}", b'{"id":1}', b'{"id":2}'])) == b'{}\n{"id":1}\n{"id":2}'


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
@pytest.mark.parametrize(
    ("frame", "opcode"), [(framing.text_frame, Opcode.TEXT), (framing.binary_frame, Opcode.BINARY)]
)
def test_frames_are_those_of_another_implementation(frame: Any, opcode: Opcode, size: int) -> None:
    data = b"x" * size

    assert frame(data) == Frame(opcode, data).serialize(mask=False)
    assert payload(frame(data)) == data
