"""
The conformance checklist of the protocol, one test for each of its lines, by their numbers.

Raw websockets to real processes: what an SDK would forgive is seen here.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from consumers.protocol.client_pb2 import Command, Reply
from tests.flows.people import make_people
from tests.servers import Deployment, ServerProcess

SECRET = "a-secret-of-the-backend-that-nobody-else-knows"
KEY = "the-key-of-the-server-api-that-nobody-knows"
OPEN = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
KEPT = {**OPEN, "allow_history_for_client": True, "history_size": 100, "history_ttl": "1h"}
NAMESPACES = {
    "live": {**OPEN, "allow_presence_for_client": True, "presence": True, "join_leave": True},
    "kept": {**KEPT, "force_recovery": True},
    "delta": {**KEPT, "allowed_delta_types": ["fossil"], "delta_publish": True},
    "closed": {},
}
PING_SECONDS = 1
HEAR_SECONDS = 5.0
names = (f"n{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    environment = {
        "ROOST_TOKEN_HMAC_SECRET": SECRET,
        "ROOST_API_KEY": KEY,
        "ROOST_NAMESPACES": json.dumps(NAMESPACES),
        "ROOST_PING_SECONDS": str(PING_SECONDS),
        "ROOST_PONG_SECONDS": "3",
        "ROOST_COMMANDS_PER_SECOND": "1000000",
    }
    with Deployment(webs=2, environment=environment) as deployment:
        yield deployment


@pytest.fixture
def web(deployment: Deployment) -> ServerProcess:
    return deployment.webs[0]


def token(user: str = "alice", **claims: Any) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


def api(web: ServerProcess, method: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{web.url}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10).json()
    result: dict[str, Any] = answer["result"]
    return result


class Client:
    """One websocket that speaks JSON; ``heard`` keeps every line, pings left out."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self.pings: list[float] = []
        self.pong = "{}"
        self._ids = itertools.count(1)

    def say(self, *commands: dict[str, Any]) -> None:
        self.socket.send("\n".join(json.dumps(command) for command in commands))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its reply."""
        id = next(self._ids)
        self.say({"id": id, **command})
        return self.until(lambda line: line.get("id") == id)

    def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first line from now on of which this holds."""
        deadline = time.monotonic() + HEAR_SECONDS
        while True:
            for line in self.frame(deadline - time.monotonic()):
                if holds(line):
                    return line

    def push(self, kind: str, channel: str) -> Any:
        """The next push of a kind in a channel."""
        line = self.until(lambda line: line.get("push", {}).get("channel") == channel and kind in line["push"])
        return line["push"][kind]

    def frame(self, seconds: float = HEAR_SECONDS) -> list[dict[str, Any]]:
        """The lines of the next frame that is no ping; pings are answered."""
        while True:
            text = self.socket.recv(timeout=seconds)
            assert isinstance(text, str)
            if text == "{}":
                self.pings.append(time.monotonic())
                self.socket.send(self.pong)
                continue
            lines = [json.loads(line) for line in text.split("\n")]
            self.heard += lines
            return lines

    def closed(self) -> tuple[int, str]:
        """Wait for the end: its code and reason."""
        try:
            while True:
                self.frame()
        except ConnectionClosed as error:
            close = error.rcvd
        assert close, "the connection ended without a close frame"
        return close.code, close.reason


Open = Callable[..., Client]


@pytest.fixture
def open_client(web: ServerProcess) -> Iterator[Open]:
    """A websocket that has not said anything yet; ``user`` connects it."""
    with ExitStack() as stack:

        def open_one(user: str = "", at: ServerProcess = web, **claims: Any) -> Client:
            client = Client(stack.enter_context(connect(at.websocket_url)))
            if user:
                assert "connect" in client.ask(connect={"token": token(user, **claims)})
            return client

        yield open_one


def test_01_text_frames_hold_lines_of_json_and_binary_frames_delimited_protobuf(
    web: ServerProcess, open_client: Open
) -> None:
    client = open_client("alice")
    client.say({"id": 10, "rpc": {"method": "ping", "data": 1}}, {"id": 11, "rpc": {"method": "ping", "data": 2}})
    assert [line["id"] for line in client.frame()] == [10, 11]

    with connect(web.websocket_url, subprotocols=[Subprotocol("centrifuge-protobuf")]) as socket:
        commands = [Command(id=1), Command(id=2)]
        commands[0].connect.token = token()
        commands[1].rpc.method, commands[1].rpc.data = "ping", b"7"
        socket.send(b"".join(bytes([command.ByteSize()]) + command.SerializeToString() for command in commands))
        replies: list[Reply] = []
        while len(replies) < 2:
            frame = socket.recv(timeout=HEAR_SECONDS)
            assert isinstance(frame, bytes)
            replies += delimited(frame)
    assert [reply.id for reply in replies] == [1, 2]
    assert replies[1].rpc.data == b"7"


def delimited(frame: bytes) -> list[Reply]:
    """The messages of a binary frame, each after its length as a varint."""
    found = []
    while frame:
        size = shift = start = 0
        while True:
            size |= (frame[start] & 127) << shift
            shift, start = shift + 7, start + 1
            if frame[start - 1] < 128:
                break
        found.append(Reply.FromString(frame[start : start + size]))
        frame = frame[start + size :]
    return found


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["centrifuge-json"], "centrifuge-json"),
        (["other", "centrifuge-protobuf"], "centrifuge-protobuf"),
        (["other"], None),
        (None, None),
    ],
)
def test_02_a_subprotocol_is_echoed_only_if_offered(
    web: ServerProcess, offered: list[Subprotocol] | None, chosen: str | None
) -> None:
    headers = {} if offered is None else {"Sec-WebSocket-Protocol": ", ".join(offered)}
    assert upgrade(web, headers).headers.get("sec-websocket-protocol") == chosen


def test_02_an_empty_offer_is_tolerated(web: ServerProcess) -> None:
    answer = upgrade(web, {"Sec-WebSocket-Protocol": ""})
    assert (answer.status_code, answer.headers.get("sec-websocket-protocol")) == (101, None)


def upgrade(web: ServerProcess, headers: dict[str, str]) -> httpx.Response:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    with httpx.stream("GET", f"{web.url}/connection/websocket", headers={**handshake, **headers}) as answer:
        return answer


def test_03_the_upgrade_is_never_refused_for_authentication(open_client: Open) -> None:
    client = open_client()
    client.say({"id": 1, "connect": {"token": "nonsense"}})
    assert client.closed()[0] == 3500


def test_04_the_connect_reply_comes_first_and_early_commands_wait_for_it(open_client: Open) -> None:
    client = open_client()
    client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "rpc": {"method": "ping"}})
    client.say({"id": 3, "subscribe": {"channel": f"live:{next(names)}"}})
    client.until(lambda line: line.get("id") == 3)
    assert [line["id"] for line in client.heard if "id" in line] == [1, 2, 3]


def test_05_every_success_has_its_member(open_client: Open) -> None:
    client, channel = open_client("alice"), f"kept:{next(names)}"
    for command in (
        {"subscribe": {"channel": channel}},
        {"publish": {"channel": channel, "data": 1}},
        {"history": {"channel": channel}},
        {"unsubscribe": {"channel": channel}},
        {"rpc": {"method": "ping"}},
        {"presence": {"channel": "live:a"}},
        {"presence_stats": {"channel": "live:a"}},
        {"refresh": {"token": token()}},
    ):
        (name,) = command
        assert isinstance(client.ask(**command)[name], dict)


def test_06_texts_are_never_empty_and_a_reason_is_no_json(web: ServerProcess, open_client: Open) -> None:
    client = open_client("alice", channels=["live:reasons"])
    for command in ({"rpc": {"method": "nothing"}}, {"publish": {"channel": "nowhere:a", "data": 1}}):
        assert client.ask(**command)["error"]["message"]
    api(web, "unsubscribe", user="alice", channel="live:reasons")
    assert client.push("unsubscribe", "live:reasons")["reason"]
    client.say({"id": 1})
    _, reason = client.closed()
    assert reason
    with pytest.raises(json.JSONDecodeError):
        json.loads(reason)


def test_07_code_and_reason_of_a_close_arrive(web: ServerProcess, open_client: Open) -> None:
    client, user = open_client(), next(names)
    client.ask(connect={"token": token(user)})
    api(web, "disconnect", user=user, disconnect={"code": 4321, "reason": "as you wish"})
    assert client.closed() == (4321, "as you wish")


def test_08_pings_come_on_schedule_whatever_else_is_written(open_client: Open) -> None:
    client = open_client()
    result = client.ask(connect={"token": token()})["connect"]
    assert (result["ping"], result["pong"]) == (PING_SECONDS, True)
    until = time.monotonic() + 4.5 * PING_SECONDS
    while time.monotonic() < until:
        client.ask(rpc={"method": "ping"})
    gaps = [later - earlier for earlier, later in itertools.pairwise(client.pings)]
    assert len(gaps) >= 2
    # What is due is looked at once a second.
    assert all(0 < gap < 2.5 * PING_SECONDS for gap in gaps)


def test_09_a_pong_has_neither_id_nor_member_and_send_is_none(open_client: Open) -> None:
    client = open_client("alice")
    client.say({})
    client.say({"send": {"data": 1}})
    assert client.ask(rpc={"method": "ping"})["rpc"]
    # Whoever answers pings by ``send`` only is closed for want of a pong.
    client.pong = '{"send":{"data":1}}'
    assert client.closed()[0] == 3012


@pytest.mark.parametrize(
    ("given", "answer"),
    [("nonsense", 3500), (jwt.encode({"sub": "a"}, "another secret of thirty-two bytes", "HS256"), 3500), ("", 3501)],
)
def test_10_an_invalid_connection_token_closes(open_client: Open, given: str, answer: int) -> None:
    client = open_client()
    client.say({"id": 1, "connect": {"token": given}})
    assert client.closed()[0] == answer


def test_10_an_expired_connection_token_is_an_error(open_client: Open) -> None:
    assert open_client().ask(connect={"token": token(exp=int(time.time()) - 60)})["error"]["code"] == 109


def test_11_bad_subscription_tokens(open_client: Open) -> None:
    client, channel = open_client("alice"), "closed:a"

    def try_with(given: str) -> dict[str, Any]:
        return client.ask(subscribe={"channel": channel, "token": given})

    assert try_with("nonsense")["error"]["code"] == 103
    assert try_with(token("alice", channel=channel, exp=int(time.time()) - 60))["error"]["code"] == 109
    assert "subscribe" in try_with(token("alice", channel=channel))


@pytest.mark.parametrize(("user", "channel"), [("bob", "closed:a"), ("alice", "closed:b")])
def test_11_a_subscription_token_of_somebody_or_something_else_closes(
    open_client: Open, user: str, channel: str
) -> None:
    client = open_client("alice")
    client.say({"id": 5, "subscribe": {"channel": "closed:a", "token": token(user, channel=channel)}})
    assert client.closed()[0] == 3500


def test_12_unsubscribing_never_fails(open_client: Open) -> None:
    client = open_client("alice")
    for channel in ("nowhere:a", "live:not-subscribed", "x" * 300, "closed:a"):
        assert "unsubscribe" in client.ask(unsubscribe={"channel": channel})


def test_13_the_reply_precedes_the_pushes_which_come_once_and_in_order(
    deployment: Deployment, open_client: Open
) -> None:
    here, there = deployment.webs
    channel = f"kept:{next(names)}"
    writer, reader = open_client("bob", at=there), open_client("alice", at=here)
    for number in range(200):
        writer.say({"id": 100 + number, "publish": {"channel": channel, "data": number}})
        if number == 50:
            reader.say({"id": 7, "subscribe": {"channel": channel}})
    writer.until(lambda line: line.get("id") == 299)
    reader.until(lambda line: line.get("push", {}).get("pub", {}).get("data") == 199)
    mine = [line for line in reader.heard if line.get("id") == 7 or line.get("push", {}).get("channel") == channel]
    offsets = [line["push"]["pub"]["offset"] for line in mine[1:]]
    assert mine[0]["id"] == 7
    assert offsets == list(range(mine[0]["subscribe"].get("offset", 0) + 1, 201))


def recoverable(web: ServerProcess) -> tuple[str, str]:
    """A channel with three publications, and its epoch."""
    channel = f"kept:{next(names)}"
    for number in (1, 2, 3):
        result = api(web, "publish", channel=channel, data=number)
    return channel, result["epoch"]


def test_14_recovered_says_the_offset_of_the_request_and_failed_the_top(web: ServerProcess, open_client: Open) -> None:
    channel, epoch = recoverable(web)
    asked = {"channel": channel, "recover": True, "offset": 1}
    good = open_client("alice").ask(subscribe={**asked, "epoch": epoch})["subscribe"]
    bad = open_client("alice").ask(subscribe={**asked, "epoch": "other"})["subscribe"]

    assert (good["recovered"], good["was_recovering"], good["offset"]) == (True, True, 1)
    assert [publication["offset"] for publication in good["publications"]] == [2, 3]
    assert (bad.get("recovered", False), bad["was_recovering"], bad["offset"]) == (False, True, 3)
    assert not bad.get("publications")


def test_15_who_wants_an_error_instead_gets_112(web: ServerProcess, open_client: Open) -> None:
    channel, _ = recoverable(web)
    asked = {"channel": channel, "recover": True, "offset": 1, "epoch": "other", "flag": 2}
    assert open_client("alice").ask(subscribe=asked)["error"]["code"] == 112


def test_16_the_epoch_underscore_never_matches_and_none_is_empty(web: ServerProcess, open_client: Open) -> None:
    channel, epoch = recoverable(web)
    client = open_client("alice")
    found = client.ask(subscribe={"channel": channel, "recover": True, "offset": 3, "epoch": "_"})["subscribe"]
    assert not found.get("recovered", False)
    assert found["epoch"] == epoch not in ("", "_")


def test_17_a_gap_ends_the_subscription_by_2500_or_the_connection_by_3010(
    web: ServerProcess, open_client: Open
) -> None:
    channel, _ = recoverable(web)
    own, given = open_client("alice"), open_client("bob", channels=[channel])
    own.ask(subscribe={"channel": channel})
    api(web, "history_remove", channel=channel)
    api(web, "publish", channel=channel, data=4)
    assert own.push("unsubscribe", channel)["code"] == 2500
    assert given.closed()[0] == 3010


@pytest.mark.parametrize(
    "text", ['{ "a" : 1.0,   "b":[ ] }', '"\\u00e9 \\/"', "12345678901234567890.10", '{"a":1,"a":2}']
)
def test_18_data_arrives_as_it_was_sent(web: ServerProcess, open_client: Open, text: str) -> None:
    channel = f"kept:{next(names)}"
    reader = open_client("alice")
    reader.ask(subscribe={"channel": channel})
    writer = open_client("bob")
    writer.socket.send(f'{{"id":9,"publish":{{"channel":"{channel}","data":{text}}}}}')
    assert text in raw_line(reader, '"pub"')


def test_18_no_line_break_inside_a_line(web: ServerProcess, open_client: Open) -> None:
    channel = f"live:{next(names)}"
    reader = open_client("alice")
    reader.ask(subscribe={"channel": channel})
    body = f'{{"channel":"{channel}","data":{{\n"a":\n1}}}}'
    httpx.post(f"{web.url}/api/publish", content=body, headers={"X-API-Key": KEY}, timeout=10).raise_for_status()
    assert reader.push("pub", channel)["data"] == {"a": 1}


def raw_line(client: Client, part: str) -> str:
    """The next line that holds this, as it is."""
    while True:
        text = client.socket.recv(timeout=HEAR_SECONDS)
        assert isinstance(text, str)
        for line in text.split("\n"):
            if part in line:
                return line


def test_19_a_json_connection_never_gets_what_is_no_json(web: ServerProcess, open_client: Open) -> None:
    channel = f"live:{next(names)}"
    reader = open_client("alice")
    reader.ask(subscribe={"channel": channel})
    api(web, "publish", channel=channel, b64data=base64.b64encode(b"\x00\xff").decode())
    assert reader.closed()[0] == 3506


def test_20_deltas_on_json_are_strings_and_the_first_is_full(web: ServerProcess, open_client: Open) -> None:
    channel = f"delta:{next(names)}"
    reader = open_client("alice")
    assert reader.ask(subscribe={"channel": channel, "delta": "fossil"})["subscribe"]["delta"] is True
    same = "the same for a long while " * 20
    for number in (1, 2):
        api(web, "publish", channel=channel, data={"same": same, "number": number})
    first, second = reader.push("pub", channel), reader.push("pub", channel)
    assert json.loads(first["data"]) == {"same": same, "number": 1}
    assert not first.get("delta", False)
    assert second["delta"] is True
    assert isinstance(second["data"], str)
    assert len(second["data"]) < 100


def test_21_since_is_exclusive_zero_is_the_position_and_the_top_comes_along(
    web: ServerProcess, open_client: Open
) -> None:
    channel, epoch = recoverable(web)
    client = open_client("alice")
    position = client.ask(history={"channel": channel})["history"]
    after = client.ask(history={"channel": channel, "limit": 10, "since": {"offset": 1, "epoch": epoch}})["history"]
    assert (position["offset"], position["epoch"], position.get("publications", [])) == (3, epoch, [])
    assert [publication["offset"] for publication in after["publications"]] == [2, 3]
    assert after["offset"] == 3


def test_22_ones_own_join_is_heard_and_hints_say_who(open_client: Open) -> None:
    channel = f"live:{next(names)}"
    alice, bob = open_client("alice"), open_client("bob")
    alice.ask(subscribe={"channel": channel, "join_leave": True})
    assert alice.push("join", channel)["info"]["user"] == "alice"
    bob.ask(subscribe={"channel": channel})
    assert alice.push("join", channel)["info"]["user"] == "bob"
    bob.socket.close()
    assert alice.push("leave", channel)["info"]["user"] == "bob"


def test_23_only_what_is_final_has_a_final_code(deployment: Deployment, open_client: Open) -> None:
    web = deployment.webs[1]
    (person,) = make_people(deployment, "Final")
    client = open_client(at=web)
    session = client.ask(connect={"token": person.token})["connect"]["data"]["session"]
    person.call(web, "DELETE", f"/sessions/{session}")
    assert 3500 <= client.closed()[0] < 4000

    moving = open_client("alice", at=web)
    web.stop()
    try:
        assert moving.closed()[0] == 3001
    finally:
        web.restart()


def test_24_what_is_too_big_closes_by_1009(open_client: Open) -> None:
    client = open_client("alice")
    client.socket.send("x" * 70_000)
    assert client.closed()[0] == 1009


def test_25_what_is_unknown_is_passed_over_and_what_is_not_supported_refused(
    web: ServerProcess, open_client: Open
) -> None:
    with connect(f"{web.websocket_url}?cf_protocol_version=v2&what=ever") as socket:
        client = Client(socket)
        assert client.ask(connect={"token": token(), "flag": 1, "novelty": {"a": 1}}, another=1)["connect"]
        assert client.ask(subscribe={"channel": "live:a", "novelty": 1})["subscribe"] is not None
        assert client.ask(subscribe={"channel": "live:b", "type": 1})["error"]["code"] == 107
        filter = {"op": "", "key": "a", "cmp": "eq", "val": "b"}
        assert client.ask(subscribe={"channel": "live:c", "tf": filter})["error"]["code"] == 107


def test_26_handshakes_take_less_than_a_second_and_operations_less_than_five(open_client: Open) -> None:
    """With an unhurried bound: this is a promise about hanging, not about speed."""
    began = time.monotonic()
    client = open_client()
    assert time.monotonic() - began < 1
    for command in ({"connect": {"token": token()}}, {"subscribe": {"channel": f"kept:{next(names)}"}}):
        began = time.monotonic()
        client.ask(**command)
        assert time.monotonic() - began < 5
