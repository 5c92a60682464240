"""Fan-out inside one process: who hears what, in which frames, and who does not."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.hub import MAX_FRAME_BYTES, Channel, Hub
from models.events import Publication

from .wire import Clock, Listener

CHAT = "chat:1"


class Rude(Listener):
    """Turns out to be too slow at its first frame, and leaves while it is written to."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    def write(self, frame: bytes) -> None:
        super().write(frame)
        self._hub.detach(CHAT, self)


def publication(offset: int, channel: str = CHAT, kind: str = "message.sent", text: str = "") -> Publication:
    return Publication(
        channel=channel, offset=offset, kind=kind, data=json.dumps({"type": kind, "text": text}).encode()
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Hub:
    return Hub(clock.call_soon, clock.time)


@pytest.fixture
def channel(hub: Hub) -> Channel:
    return hub.open(CHAT, "epoch", 0)


def listening(hub: Hub, channel: Channel, count: int = 1) -> list[Listener]:
    listeners = [Listener() for _ in range(count)]
    for listener in listeners:
        hub.attach(channel, listener, channel.top)
    return listeners


def test_everyone_gets_the_same_bytes(hub: Hub, channel: Channel, clock: Clock) -> None:
    listeners = listening(hub, channel, 3)

    hub.deliver(channel, publication(1, text="hello"))
    clock.turn()

    first, *others = (listener.frames for listener in listeners)
    assert len(first) == 1
    assert all(frames[0] is first[0] for frames in others), "encoded once"
    assert listeners[0].pushes == [
        {"channel": CHAT, "pub": {"data": {"type": "message.sent", "text": "hello"}, "offset": 1}}
    ]


def test_what_comes_in_one_turn_shares_a_frame(hub: Hub, channel: Channel, clock: Clock) -> None:
    (listener,) = listening(hub, channel)

    for offset in (1, 2, 3):
        hub.deliver(channel, publication(offset))
    assert listener.frames == []
    clock.turn()
    hub.deliver(channel, publication(4))
    clock.turn()

    assert len(listener.frames) == 2
    assert listener.offsets == [1, 2, 3, 4]


def test_a_frame_stays_below_what_clients_take(hub: Hub, channel: Channel, clock: Clock) -> None:
    (listener,) = listening(hub, channel)

    for offset in range(1, 101):
        hub.deliver(channel, publication(offset, text="x" * 20_000))
    clock.turn()

    assert listener.offsets == list(range(1, 101))
    assert len(listener.frames) == 4
    assert max(map(len, listener.frames)) < MAX_FRAME_BYTES + 1000


def test_others_do_not_hear_it(hub: Hub, channel: Channel, clock: Clock) -> None:
    elsewhere = hub.open("chat:2", "epoch", 0)
    (here,), (there,) = listening(hub, channel), listening(hub, elsewhere)

    hub.deliver(channel, publication(1))
    clock.turn()

    assert (here.offsets, there.offsets) == ([1], [])


def test_who_has_left_hears_nothing_more(hub: Hub, channel: Channel, clock: Clock) -> None:
    gone, stays = listening(hub, channel, 2)

    hub.deliver(channel, publication(1))
    hub.detach(CHAT, gone)
    clock.turn()

    assert (gone.frames, stays.offsets) == ([], [1])


def test_a_channel_that_the_last_one_left_is_forgotten(hub: Hub, channel: Channel) -> None:
    (listener,) = listening(hub, channel)

    hub.detach(CHAT, listener)

    assert (hub.channels, channel.is_closed) == ({}, True)


def test_one_that_leaves_while_it_is_written_to_disturbs_nobody(hub: Hub, channel: Channel, clock: Clock) -> None:
    rude = [Rude(hub) for _ in range(10)]
    for listener in rude:
        hub.attach(channel, listener, 0)
    polite = listening(hub, channel, 10)

    hub.deliver(channel, publication(1))
    clock.turn()
    hub.deliver(channel, publication(2))
    clock.turn()

    assert [listener.offsets for listener in polite] == [[1, 2]] * 10
    assert [listener.offsets for listener in rude] == [[1]] * 10


def test_one_that_comes_in_the_middle_of_a_turn_hears_only_what_follows(
    hub: Hub, channel: Channel, clock: Clock
) -> None:
    (before,) = listening(hub, channel)
    hub.deliver(channel, publication(1))

    # Its snapshot had the first one.
    (late,) = listening(hub, channel)
    hub.deliver(channel, publication(2))
    clock.turn()
    hub.deliver(channel, publication(3))
    clock.turn()

    assert before.offsets == [1, 2, 3]
    assert late.offsets == [2, 3]


def test_one_that_has_more_than_we_do_hears_nothing_twice(hub: Hub, channel: Channel, clock: Clock) -> None:
    (before,) = listening(hub, channel)
    ahead = Listener()
    hub.attach(channel, ahead, 3)

    for offset in range(1, 6):
        hub.deliver(channel, publication(offset))
        clock.turn()

    assert before.offsets == [1, 2, 3, 4, 5]
    assert ahead.offsets == [4, 5]


def test_a_hint_reaches_even_those_who_are_ahead(hub: Hub, channel: Channel, clock: Clock) -> None:
    ahead = Listener()
    hub.attach(channel, ahead, 3)

    hub.deliver(channel, publication(0, kind="typing.started"))
    clock.turn()

    assert ahead.offsets == [0]
    assert channel.top == 0


def test_one_that_would_miss_something_is_not_let_in(hub: Hub, channel: Channel, clock: Clock) -> None:
    listening(hub, channel)
    hub.deliver(channel, publication(1))
    clock.turn()

    with pytest.raises(AssertionError, match="would miss"):
        hub.attach(channel, Listener(), 0)


def test_what_follows_a_removal_is_not_for_the_removed(hub: Hub, channel: Channel, clock: Clock) -> None:
    removed, stays = listening(hub, channel, 2)
    hub.effects["member.removed"] = lambda publication: hub.detach(CHAT, removed)

    hub.deliver(channel, publication(1))
    hub.deliver(channel, publication(2, kind="member.removed"))
    hub.deliver(channel, publication(3))
    clock.turn()

    assert removed.offsets == [1, 2]
    assert stays.offsets == [1, 2, 3]


def test_after_the_end_of_a_channel_nobody_hears_more(hub: Hub, channel: Channel, clock: Clock) -> None:
    listeners = listening(hub, channel, 2)
    ended: list[object] = []
    hub.effects["conversation.deleted"] = lambda publication: ended.extend(hub.end(CHAT))

    hub.deliver(channel, publication(1, kind="conversation.deleted"))
    hub.deliver(channel, publication(2))
    clock.turn()

    assert [listener.offsets for listener in listeners] == [[1], [1]]
    assert set(ended) == set(listeners)
    assert CHAT not in hub.channels


def test_who_is_here_is_forgotten_with_the_last_connection(hub: Hub) -> None:
    user: UUID = uuid4()
    phone, laptop = Listener(), Listener()
    hub.arrive(user, "7", phone)
    hub.arrive(None, "7", laptop)
    hub.arrive(user, "7", laptop)

    hub.depart(user, "7", phone)
    assert hub.users[user] == hub.names["7"] == {laptop}
    hub.depart(user, "7", laptop)
    hub.depart(user, "7", laptop)

    assert (hub.users, hub.names) == ({}, {})


def test_a_channel_known_to_nobody_is_forgotten(hub: Hub) -> None:
    one, other = Listener(), Listener()
    hub.know(CHAT, "epoch", 5, one)
    hub.know(CHAT, "epoch", 5, other)

    hub.forget(CHAT, one)
    assert hub.known[CHAT].listeners == {other}
    hub.forget(CHAT, other)

    assert hub.known == {}


@given(
    turns=st.lists(st.integers(0, 3), max_size=12),
    arrivals=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), max_size=6),
)
def test_everyone_hears_all_after_their_position_once_and_in_order(
    turns: list[int], arrivals: list[tuple[int, int]]
) -> None:
    clock = Clock()
    hub = Hub(clock.call_soon, clock.time)
    channel = hub.open(CHAT, "epoch", 0)
    came: list[tuple[Listener, int]] = [(Listener(), 0)]
    hub.attach(channel, came[0][0], 0)

    for turn, count in enumerate(turns):
        for offset in range(channel.top + 1, channel.top + 1 + count):
            hub.deliver(channel, publication(offset))
        for at, ahead in arrivals:
            if at == turn:
                came.append((Listener(), channel.top + ahead))
                hub.attach(channel, *came[-1])
        clock.turn()

    for listener, upto in came:
        assert listener.offsets == list(range(upto + 1, channel.top + 1))
