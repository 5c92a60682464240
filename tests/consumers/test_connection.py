"""One client's state machine: bytes in, bytes out, on a clock that the test moves; no socket, no database."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.connection import (
    CONNECT_SECONDS,
    EXPIRY_GRACE_SECONDS,
    MAX_BACKLOG_BYTES,
    MAX_BACKLOG_FRAMES,
    MAX_IN_FLIGHT,
    Connection,
    Pace,
    State,
)
from consumers.identity import Identity
from consumers.protocol import messages
from consumers.protocol.codes import Disconnect
from consumers.protocol.messages import Error, Push, Reply

from .wire import Clock, Wire, line

PACE = Pace(ping=25, pong=10, commands=50)
BURST = 200
LIFE_SECONDS = 900.0


class Answers:
    """
    The simplest handlers: everyone may connect, a call is answered by its data, other commands by nothing.

    A call of ``wait`` is under way until ``answer_waiting``, a connect with the token ``slow`` until ``let_in``.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Connection, int]] = []
        self.connecting: list[tuple[Connection, int]] = []
        self.ended: list[Connection] = []
        self.taken: list[int] = []
        self.expirations: list[str] = []

    def connect(self, connection: Connection, id: int, request: messages.ConnectRequest) -> None:
        if request.token == "expired":
            return connection.refuse_connect(id, Error(109, "token expired"))
        self.connecting.append((connection, id))
        if request.token != "slow":
            self.let_in()

    def let_in(self) -> None:
        connection, id = self.connecting.pop()
        identity = Identity(user="7", person=uuid4(), session=uuid4(), device=uuid4())
        connection.connected(identity, LIFE_SECONDS)
        connection.reply(Reply(id=id, connect=messages.ConnectResult(client=connection.client, version="test")))

    def rpc(self, connection: Connection, id: int, request: messages.RPCRequest) -> None:
        self.taken.append(id)
        if request.method == "wait":
            connection.begin()
            self.waiting.append((connection, id))
        else:
            connection.answer(connection.codec.encode_rpc(id, bytes(request.data) or b"null"))

    def answer_waiting(self, count: int) -> None:
        for connection, id in self.waiting[:count]:
            connection.finish()
            connection.answer(connection.codec.encode_rpc(id, b"null"))
        del self.waiting[:count]

    def _pass_over(self, connection: Connection, id: int, request: Any) -> None:
        self.taken.append(id)

    subscribe = unsubscribe = publish = presence = presence_stats = history = refresh = sub_refresh = _pass_over

    def send(self, connection: Connection, request: messages.SendRequest) -> None:
        """Wants no answer."""

    def expired(self, connection: Connection, channel: str) -> None:
        self.expirations.append(channel)

    def closed(self, connection: Connection) -> None:
        self.ended.append(connection)


class Client:
    """A connection, and what is at its ends."""

    def __init__(self) -> None:
        self.wire, self.clock, self.answers = Wire(), Clock(), Answers()
        self.connection = Connection(self.wire, self.answers, self.clock, PACE)

    def say(self, *commands: bytes) -> None:
        """Send one frame, and let the loop turn."""
        self.connection.receive(b"\n".join(commands))
        self.clock.turn()

    def connect(self, token: str = "good") -> Client:
        self.say(line(id=1, connect={"token": token}))
        return self

    def call(self, id: int, method: str = "ping", data: object = None) -> None:
        self.say(line(id=id, rpc={"method": method, "data": data}))

    def pass_time(self, seconds: float, *, answers_pings: bool = True) -> list[float]:
        """Let time pass as the timers do, once a second; return when pings came, from now on."""
        began, pings = self.clock.time(), []
        for _ in range(int(seconds)):
            self.clock.advance(1)
            before = len(self.wire.frames)
            self.connection.on_time(self.clock.time())
            if len(self.wire.frames) > before:
                pings.append(self.clock.time() - began)
                if answers_pings:
                    self.say(b"{}")
        return pings

    def ids(self) -> list[int]:
        """The commands that were answered, in the order of the answers."""
        return [reply["id"] for reply in self.wire.replies if "id" in reply]


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def connected(client: Client) -> Client:
    client.connect()
    client.wire.frames.clear()
    return client


# --- connecting


def test_the_first_command_is_answered_and_calls_go_on_from_there(client: Client) -> None:
    client.connect()
    client.call(2, data={"a": 1})

    first, second = client.wire.replies
    assert (first["id"], first["connect"]["client"]) == (1, client.connection.client)
    assert UUID(client.connection.client)
    assert second == {"id": 2, "rpc": {"data": {"a": 1}}}


@pytest.mark.parametrize(
    "first",
    [
        line(id=1, rpc={"method": "ping"}),
        line(id=1, subscribe={"channel": "feed:1"}),
        line(send={"data": {}}),
        line(connect={"token": "good"}),
        line(id=-1, connect={"token": "good"}),
        line(id=1),
    ],
)
def test_nobody_gets_anything_before_connecting(client: Client, first: bytes) -> None:
    client.say(first)

    assert client.wire.is_closed_with(Disconnect.BAD_REQUEST)
    assert (client.wire.frames, client.answers.taken) == ([], [])


def test_connecting_twice_is_a_mistake(connected: Client) -> None:
    connected.connect()

    assert connected.wire.is_closed_with(Disconnect.BAD_REQUEST)


def test_connecting_twice_at_once_is_a_mistake_and_the_first_is_answered(client: Client) -> None:
    client.connect("slow").connect("slow")
    client.answers.let_in()
    client.clock.turn()

    assert client.ids() == [1]
    assert client.wire.is_closed_with(Disconnect.BAD_REQUEST)


def test_what_comes_before_the_connect_reply_waits_for_it(client: Client) -> None:
    client.say(line(id=1, connect={"token": "slow"}), line(id=2, rpc={}), line(id=3, rpc={}))
    client.call(4)
    assert (client.wire.frames, client.wire.is_read) == ([], False)

    client.answers.let_in()
    client.clock.turn()

    assert client.ids() == [1, 2, 3, 4]
    assert client.wire.is_read


def test_a_refused_client_is_told_why_and_may_only_leave(client: Client) -> None:
    client.connect("expired")
    assert client.wire.replies == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
    assert client.wire.closed is None

    client.call(2)

    assert client.wire.is_closed_with(Disconnect.BAD_REQUEST)
    assert client.answers.taken == []


def test_who_does_not_connect_is_cut_off(client: Client) -> None:
    client.pass_time(CONNECT_SECONDS - 1)
    assert client.wire.closed is None

    client.pass_time(1)

    assert client.wire.is_closed_with(Disconnect.STALE)


def test_who_was_refused_and_stays_is_cut_off(client: Client) -> None:
    client.connect("expired").pass_time(CONNECT_SECONDS)

    assert client.wire.is_closed_with(Disconnect.STALE)


# --- commands


@pytest.mark.parametrize(
    "frame",
    [
        line(id=2, fly={"to": "the moon"}),
        line(id=2),
        line(id=2, connect={"token": "good"}),
        line(id=0, rpc={"method": "ping"}),
        b"hello",
        b"",
        b"\xff",
        b"{}\n\n{}",
    ],
)
def test_what_is_no_command_closes_the_connection(connected: Client, frame: bytes) -> None:
    connected.say(frame)

    assert connected.wire.is_closed_with(Disconnect.BAD_REQUEST)
    assert connected.answers.ended == [connected.connection]


def test_what_was_asked_before_a_mistake_is_still_answered(connected: Client) -> None:
    connected.say(line(id=2, rpc={}), line(id=3), line(id=4, rpc={}))

    assert connected.ids() == [2]
    assert connected.answers.taken == [2]
    assert connected.wire.is_closed_with(Disconnect.BAD_REQUEST)


def test_a_message_that_wants_no_answer_gets_none(connected: Client) -> None:
    connected.say(line(send={"data": {"a": 1}}))

    assert (connected.wire.frames, connected.wire.closed) == ([], None)


def test_answers_of_one_frame_share_a_frame(connected: Client) -> None:
    connected.say(*(line(id=id, rpc={}) for id in range(2, 12)))

    assert connected.ids() == list(range(2, 12))
    assert len(connected.wire.frames) == 1


def test_answers_of_one_turn_share_a_frame(connected: Client) -> None:
    connected.say(*(line(id=id, rpc={"method": "wait"}) for id in range(2, 12)))

    connected.answers.answer_waiting(10)
    connected.clock.turn()

    assert connected.ids() == list(range(2, 12))
    assert len(connected.wire.frames) == 1


def test_a_push_does_not_overtake_an_answer(connected: Client) -> None:
    connected.connection.reply(Reply(id=2, publish=messages.Empty()))
    connected.connection.push(Push(channel="feed:1"))

    assert [sorted(reply) for reply in connected.wire.replies] == [["id", "publish"], ["push"]]


# --- too much


def test_who_has_too_much_under_way_is_not_read_until_half_is_done(connected: Client) -> None:
    for id in range(2, 2 + MAX_IN_FLIGHT):
        connected.call(id, "wait")
    assert not connected.wire.is_read
    # What the socket had read already waits.
    connected.call(100)
    assert connected.ids() == []

    connected.answers.answer_waiting(MAX_IN_FLIGHT // 2 - 1)
    connected.clock.turn()
    assert not connected.wire.is_read

    connected.answers.answer_waiting(1)
    connected.clock.turn()
    assert connected.wire.is_read
    assert connected.ids()[-1] == 100


def test_a_frame_with_too_much_in_it_is_taken_in_order_as_answers_go_out(connected: Client) -> None:
    connected.say(*(line(id=id, rpc={"method": "wait"}) for id in range(2, 152)))
    connected.call(152)
    assert len(connected.answers.waiting) == MAX_IN_FLIGHT

    while connected.answers.waiting:
        connected.answers.answer_waiting(10)
        connected.clock.turn()
        assert len(connected.answers.waiting) <= MAX_IN_FLIGHT

    assert connected.answers.taken == list(range(2, 153))
    assert sorted(connected.ids()) == list(range(2, 153))


@pytest.mark.parametrize(
    ("frames", "data"), [(MAX_BACKLOG_FRAMES + 1, ""), (MAX_BACKLOG_BYTES // 60_000 + 1, "x" * 60_000)]
)
def test_who_goes_on_although_not_read_is_closed(client: Client, frames: int, data: str) -> None:
    client.connect("slow")
    for id in range(2, 1 + frames):
        client.call(id, data=data)
    assert client.wire.closed is None

    client.call(frames + 1, data=data)

    assert client.wire.is_closed_with(Disconnect.TOO_MANY_REQUESTS)


def test_who_hurries_is_told_to_slow_down_and_may_go_on_later(connected: Client) -> None:
    for id in range(2, 2 + BURST + 1):
        connected.call(id)
    assert connected.wire.take()[-1] == {
        "id": BURST + 2,
        "error": {"code": 111, "message": "too many requests", "temporary": True},
    }

    connected.clock.advance(1)
    connected.call(1000)

    assert connected.wire.replies == [{"id": 1000, "rpc": {"data": None}}]


def test_who_floods_is_closed(connected: Client) -> None:
    for id in range(2, 2 + 2 * BURST):
        connected.call(id)

    assert connected.wire.is_closed_with(Disconnect.TOO_MANY_REQUESTS)
    assert len(connected.answers.taken) == BURST


def test_one_frame_is_enough_for_a_flood(connected: Client) -> None:
    connected.say(*(line(id=id, rpc={}) for id in range(2, 2000)))

    assert connected.wire.is_closed_with(Disconnect.TOO_MANY_REQUESTS)
    assert len(connected.answers.taken) == BURST


# --- time


def test_pings_come_every_interval_and_pongs_keep_the_connection(connected: Client) -> None:
    pings = connected.pass_time(PACE.ping * 10)

    assert PACE.ping / 2 <= pings[0] <= PACE.ping + 1
    assert len(pings) >= 9
    assert connected.wire.closed is None
    assert set(connected.wire.frames) == {b"\x81\x02{}"}


def test_first_pings_are_spread_so_that_a_restart_makes_no_wave() -> None:
    firsts = {Client().connect().pass_time(PACE.ping + 1)[0] for _ in range(50)}

    assert len(firsts) > 5


def test_who_does_not_answer_a_ping_is_closed(connected: Client) -> None:
    while not connected.pass_time(1, answers_pings=False):
        assert connected.wire.closed is None
    connected.pass_time(PACE.pong - 2, answers_pings=False)
    assert connected.wire.closed is None

    connected.pass_time(2, answers_pings=False)

    assert connected.wire.is_closed_with(Disconnect.NO_PONG)


def test_calls_are_no_pong(connected: Client) -> None:
    for id in range(2, 2 + int(PACE.ping + PACE.pong) + 2):
        connected.pass_time(1, answers_pings=False)
        connected.call(id)

    assert connected.wire.is_closed_with(Disconnect.NO_PONG)


def test_a_token_that_has_run_out_ends_the_connection_after_a_while(connected: Client) -> None:
    connected.pass_time(LIFE_SECONDS + EXPIRY_GRACE_SECONDS - 1)
    assert connected.wire.closed is None

    connected.pass_time(1)

    assert connected.wire.is_closed_with(Disconnect.EXPIRED)


def test_a_subscription_that_is_not_renewed_ends(connected: Client) -> None:
    connected.connection.expire_subscription("news:a", 40)
    connected.connection.expire_subscription("news:b", 40)
    connected.connection.expire_subscription("news:b", 100)

    connected.pass_time(39)
    before = list(connected.answers.expirations)
    connected.pass_time(10)

    assert before == []
    assert connected.answers.expirations == ["news:a"]


def test_a_new_token_lets_it_go_on(connected: Client) -> None:
    connected.pass_time(LIFE_SECONDS)

    connected.connection.expire_in(LIFE_SECONDS)
    connected.pass_time(LIFE_SECONDS)

    assert connected.wire.closed is None


# --- the end


def test_after_the_end_nothing_is_written_taken_or_timed(connected: Client) -> None:
    connected.call(2, "wait")
    connected.connection.disconnect(Disconnect.FORCE_RECONNECT)

    connected.answers.answer_waiting(1)
    connected.call(3)
    connected.connection.push(Push(channel="feed:1"))
    connected.connection.disconnect(Disconnect.SHUTDOWN)
    connected.connection.lost()

    assert connected.wire.frames == []
    assert connected.wire.is_closed_with(Disconnect.FORCE_RECONNECT)
    assert connected.answers.taken == [2]
    assert connected.answers.ended == [connected.connection]
    assert connected.connection.on_time(connected.clock.time() + 1000) is None


def test_a_socket_that_is_lost_while_it_connects_is_forgotten(client: Client) -> None:
    client.connect("slow")

    client.connection.lost()

    assert client.connection.state is State.CLOSED
    assert client.answers.ended == [client.connection]


@given(
    st.lists(
        st.sampled_from(
            [
                line(id=1, connect={"token": "good"}),
                line(id=1, connect={"token": "slow"}),
                line(id=1, connect={"token": "expired"}),
                line(id=2, rpc={}),
                line(id=3, rpc={"method": "wait"}),
                b"{}",
                b"{}\n{}",
            ]
        )
        | st.binary(max_size=20),
        max_size=20,
    )
)
def test_whatever_a_client_says_is_answered_or_ends_in_a_close(frames: list[bytes]) -> None:
    client = Client()

    for frame in frames:
        client.say(frame)

    assert (client.wire.closed is None) == (client.connection.state is not State.CLOSED)
    assert len(client.answers.ended) == (client.wire.closed is not None)
