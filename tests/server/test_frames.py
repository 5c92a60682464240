"""The picows lane over real sockets, and what it has in common with the Daphne lane."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pytest

from server.frames import MAX_CRUMBS_PER_SECOND, MAX_IGNORED_FRAMES

from .sockets import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, EchoProcess, Raw, frame, handshake

StartEcho = Callable[..., EchoProcess]


@pytest.fixture(params=["attached", "plain", "daphne"], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[tuple[EchoProcess, str]]:
    """The three ways in which an application can be served, each with its query string."""
    with EchoProcess(socket_lane="daphne" if request.param == "daphne" else "picows") as process:
        yield process, "asgi" if request.param == "plain" else ""


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoProcess]:
    with EchoProcess(allowed_origins="https://app.example.com") as process:
        yield process


@pytest.fixture
def client(echo: EchoProcess) -> Iterator[Raw]:
    with Raw(echo.port) as raw:
        yield raw.shake_hands()


# --- the same on every lane


@pytest.mark.parametrize("payload", ["hello", "", "ж" * 20_000])
def test_text_is_echoed(served: tuple[EchoProcess, str], payload: str) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query).say(payload)

        assert client.hear() == (TEXT, payload.encode())


@pytest.mark.parametrize("payload", [b"\x00\xff", b""])
def test_bytes_are_echoed(served: tuple[EchoProcess, str], payload: bytes) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query).send_frame(BINARY, payload)

        assert client.hear() == (BINARY, payload)


def test_the_close_reason_reaches_the_client(served: tuple[EchoProcess, str]) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query).say("close")

        assert client.hear_close() == (3500, "invalid token")


def test_a_message_that_is_too_big_closes_with_1009(served: tuple[EchoProcess, str]) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query).send_frame(BINARY, bytes(65537))

        assert client.hear_close()[0] == 1009


def test_pieces_that_are_too_big_together_close_with_1009(served: tuple[EchoProcess, str]) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query)
        client.send(frame(TEXT & 0x0F, b"x" * 40_000) + frame(CONTINUATION, b"x" * 40_000))

        assert client.hear_close()[0] == 1009


def test_the_application_hears_of_the_end(served: tuple[EchoProcess, str]) -> None:
    process, query = served
    with Raw(process.port) as client:
        client.shake_hands(query).send_frame(CLOSE, struct.pack("!H", 4321))

        client.hear_close()
        process.wait_for("^disconnect 4321$")


# --- what an application may do


def test_an_application_may_refuse_before_it_accepts(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        assert client.shake_hands("refuse").hear_close() == (3500, "invalid token")


def test_an_application_that_crashes_closes_with_1011(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        assert client.shake_hands("crash").hear_close() == (1011, "internal error")


def test_nothing_is_delivered_after_a_message_that_crashed(client: Raw) -> None:
    client.send(frame(TEXT, b"one") + frame(TEXT, b"crash") + frame(TEXT, b"two"))

    assert client.hear() == (TEXT, b"one")
    assert client.hear()[0] == CLOSE


def test_what_comes_before_a_late_accept_is_kept_in_order(echo: EchoProcess) -> None:
    texts = [b"%d" % number for number in range(200)]
    with Raw(echo.port) as client:
        client.shake_hands("late").send(b"".join(frame(TEXT, text) for text in texts))

        assert [client.hear()[1] for _ in texts] == texts


@pytest.mark.parametrize("query", ["", "asgi", "late"])
def test_a_frame_that_came_with_the_handshake_is_kept(echo: EchoProcess, query: str) -> None:
    with Raw(echo.port) as client:
        client.send(handshake(query).encode() + frame(TEXT, b"early"))
        client.read_until(b"\r\n\r\n")

        assert client.hear() == (TEXT, b"early")


def test_a_paused_connection_is_read_again_when_it_is_resumed(client: Raw) -> None:
    client.say("pause")
    time.sleep(0.2)  # so that the next frame is not in the same read
    began = time.monotonic()
    client.say("after")

    assert client.hear() == (TEXT, b"after")
    assert time.monotonic() - began > 0.5


def test_a_slow_reader_gets_everything_in_order(echo: EchoProcess) -> None:
    with Raw(echo.port, receive_buffer=4096) as client:
        client.shake_hands().say("some")
        echo.wait_for("some written")
        client.say("last")

        assert [client.hear()[1][:1] for _ in range(8)] == [b"%d" % number for number in range(8)]
        assert client.hear() == (TEXT, b"last")


def test_a_close_comes_after_everything_that_is_pending(echo: EchoProcess) -> None:
    with Raw(echo.port, receive_buffer=4096) as client:
        client.shake_hands().send(frame(TEXT, b"some") + frame(TEXT, b"close"))

        assert [client.hear()[1][:1] for _ in range(8)] == [b"%d" % number for number in range(8)]
        assert client.hear_close() == (3500, "invalid token")


# --- what a client may not do


def test_pings_are_answered(client: Raw) -> None:
    client.send_frame(PING, b"are you there")

    assert client.hear() == (PONG, b"are you there")


@pytest.mark.parametrize("crumb", [frame(PING), frame(PONG), frame(CONTINUATION & 0x0F)], ids=["ping", "pong", "crumb"])
def test_a_flood_of_frames_without_content_is_closed(client: Raw, crumb: bytes) -> None:
    client.send(frame(TEXT & 0x0F, b"begin") + crumb * (2 * MAX_CRUMBS_PER_SECOND))

    assert client.hear_close() == (1008, "flood")


def test_what_is_sent_after_the_close_is_not_read_for_ever(echo: EchoProcess, client: Raw) -> None:
    client.say("close")
    assert client.hear_close()[0] == 3500
    piece = frame(TEXT, b"x" * 1000) * MAX_IGNORED_FRAMES
    before = echo.cpu_seconds

    with pytest.raises(ConnectionError):  # noqa: PT012 - any of them may be the one that fails
        while True:
            client.send(piece)

    assert echo.cpu_seconds - before < 1


# --- handshakes


@pytest.mark.parametrize(
    "headers",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade"},
        {"Connection": "Upgrade, close"},
        {"Connection": "keep-alive\r\nConnection: Upgrade"},
        {"Upgrade": "WebSocket"},
        {"Origin": "http://chat.example.com"},
        {"Origin": "https://chat.example.com"},
        {"Origin": "https://app.example.com"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
def test_handshakes_as_browsers_and_proxies_send_them(echo: EchoProcess, headers: dict[str, str]) -> None:
    with Raw(echo.port) as client:
        client.shake_hands(headers=headers).say("hello")

        assert client.hear() == (TEXT, b"hello")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": ""}, 426),
        ({"Connection": ""}, 400),
        ({"Connection": "keep-alive"}, 400),
        ({"Host": ""}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_handshakes_that_are_refused(echo: EchoProcess, headers: dict[str, str], status: int) -> None:
    with Raw(echo.port) as client:
        assert client.ask(handshake(headers=headers))[0] == status
        client.hear_end()


def test_other_paths_are_not_found(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        assert client.ask(handshake(path="/connection/websocket2"))[0] == 404


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("centrifuge-json", "centrifuge-json"),
        ("other, centrifuge-json", "centrifuge-json"),
        ("other", None),
        (" ", None),
    ],
)
def test_a_subprotocol_is_chosen_among_those_offered(echo: EchoProcess, offered: str, chosen: str | None) -> None:
    with Raw(echo.port) as client:
        status, head = client.ask(handshake(headers={"Sec-WebSocket-Protocol": offered}))
        client.say("scope")

        assert status == 101
        assert (f"Sec-WebSocket-Protocol: {chosen}" in head) == bool(chosen)
        words = [word.strip() for word in offered.split(",") if word.strip()]
        assert client.hear()[1].decode() == f"ws 127.0.0.1 {words}"


def test_more_connections_than_allowed_are_told_to_come_back(start_echo: StartEcho) -> None:
    process = start_echo(max_connections=2)
    with Raw(process.port) as first, Raw(process.port) as second, Raw(process.port) as third:
        first.shake_hands()
        second.shake_hands()

        assert third.ask(handshake())[0] == 503

        first.send_frame(CLOSE)
        first.hear_end()
        with Raw(process.port) as fourth:
            fourth.shake_hands()


def test_a_handshake_that_is_not_finished_is_cut_off(start_echo: StartEcho) -> None:
    process = start_echo()
    with Raw(process.port) as client:
        began = time.monotonic()
        client.send(handshake().encode()[:-2])
        client.hear_end()

        assert 3 < time.monotonic() - began < 8
    assert "never retrieved" not in process.log
