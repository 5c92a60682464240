"""The front door and the life of a web process, over real sockets."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from server.front import LOOK_SECONDS, CannotListen, FrontDoor

from .sockets import CLOSE, TEXT, EchoProcess, Raw, handshake

StartEcho = Callable[..., EchoProcess]


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoProcess]:
    with EchoProcess(trusted_proxies="127.0.0.1") as process:
        yield process


def get(path: str, headers: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n{headers}\r\n"


def read_body(client: Raw, head: str) -> str:
    size = next(line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length"))
    return client.read(int(size)).decode()


# --- who serves what


def test_http_and_websockets_share_the_port(echo: EchoProcess) -> None:
    with Raw(echo.port) as http, Raw(echo.port) as websocket:
        status, head = http.ask(get("/"))
        websocket.shake_hands().say("hello")

        assert (status, read_body(http, head)) == (200, "http 127.0.0.1 ")
        assert websocket.hear() == (TEXT, b"hello")


def test_a_websocket_on_a_connection_that_began_with_http_is_served(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        read_body(client, client.ask(get("/"))[1])

        client.shake_hands().say("hello")

        assert client.hear() == (TEXT, b"hello")


def test_plain_http_at_the_path_of_the_websocket_is_told_to_upgrade(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        assert client.ask(get("/connection/websocket"))[0] == 426


def test_a_request_may_come_byte_by_byte(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in handshake()[:-1]:
            client.send(byte.encode())
        assert client.ask("\n")[0] == 101


@pytest.mark.parametrize("lane", ["picows", "daphne"])
def test_a_trusted_proxy_tells_who_the_client_is(start_echo: StartEcho, lane: str) -> None:
    process = start_echo(trusted_proxies="127.0.0.1", socket_lane=lane)
    forwarded = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    with Raw(process.port) as http, Raw(process.port) as websocket:
        head = http.ask(get("/", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n"))[1]
        websocket.shake_hands("scope", headers=forwarded).say("scope")

        assert read_body(http, head) == "https 203.0.113.7 "
        assert websocket.hear()[1] == b"wss 203.0.113.7 []"


# --- who never says what they want


def test_a_client_that_sends_two_bytes_and_waits_is_cut_off(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        began = time.monotonic()
        client.send(b"GE")
        client.hear_end()

        assert LOOK_SECONDS - 1 < time.monotonic() - began < LOOK_SECONDS + 3


def test_a_client_that_sends_two_bytes_and_leaves_is_forgotten_at_once(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        began = time.monotonic()
        client.send(b"GE")
        client.socket.shutdown(socket.SHUT_WR)
        client.hear_end()

        assert time.monotonic() - began < LOOK_SECONDS / 2


def test_a_silent_client_is_cut_off(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        client.hear_end()


def test_without_file_descriptors_it_waits_and_goes_on(start_echo: StartEcho) -> None:
    process = start_echo()
    with ExitStack() as stack:
        friend = stack.enter_context(Raw(process.port)).shake_hands()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (40, 40))
        crowd = [stack.enter_context(Raw(process.port)) for _ in range(60)]
        for client in crowd:
            client.send(handshake().encode())
        process.wait_for("cannot accept connections")
        before = process.cpu_seconds

        for _ in range(10):
            friend.say("hello")
            assert friend.hear() == (TEXT, b"hello")
            time.sleep(0.1)  # a core would burn meanwhile

        assert process.cpu_seconds - before < 0.3
        assert process.log.count("cannot accept connections") == 1
        # The first ones leave; those who waited in the kernel get in.
        for client in crowd[:50]:
            client.socket.close()
        for client in crowd[50:]:
            assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101")


# --- listening


def test_processes_share_a_port(start_echo: StartEcho) -> None:
    first = start_echo()
    second = start_echo(port=first.port)

    answered = set()
    while answered != {first.pid, second.pid}:
        with Raw(first.port) as client:
            client.shake_hands().say("pid")
            answered.add(int(client.hear()[1]))


def test_it_may_open_as_many_files_as_the_system_allows(start_echo: StartEcho) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        process = start_echo(max_connections=10_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == hard
    assert f"ROOST_MAX_CONNECTIONS is 10000000, but the system allows {hard} open files" in process.log


async def test_a_taken_port_is_refused_in_plain_words() -> None:
    door = FrontDoor({}, lambda client: client.close())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(CannotListen, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use\."):
            door.listen("127.0.0.1", port)


# --- SIGTERM


@pytest.mark.parametrize("lane", ["picows", "daphne"])
def test_sigterm_closes_every_websocket_within_the_drain_time(start_echo: StartEcho, lane: str) -> None:
    process = start_echo(drain_seconds=2, socket_lane=lane)
    with ExitStack() as stack:
        clients = [stack.enter_context(Raw(process.port)).shake_hands() for _ in range(50)]
        began = time.monotonic()
        process.begin_stop()

        closed_after = []
        open_clients = {client.socket: client for client in clients}
        # Whoever is closed first is heard first, whichever it is.
        while open_clients:
            for heard in select.select(list(open_clients), [], [], 5)[0]:
                client = open_clients.pop(heard)
                assert client.hear_close() == (3001, "shutdown")
                client.send_frame(CLOSE, b"\x0b\xb9")
                closed_after.append(time.monotonic() - began)

        assert process.wait(5) == 0
        assert time.monotonic() - began < 3
        # Not all at once: they all come back to somebody.
        assert max(closed_after) - min(closed_after) > 0.5
    assert process.log.count("disconnect 3001") == 50 if lane == "picows" else True
    assert process.log.rstrip().endswith("engine stopped")


def test_sigterm_lets_requests_finish_and_takes_no_new_connections(start_echo: StartEcho) -> None:
    process = start_echo(drain_seconds=5)
    with Raw(process.port) as slow:
        slow.send(get("/slow").encode())
        process.wait_for("slow begins")
        process.begin_stop()
        process.wait_for("draining")

        with pytest.raises(ConnectionRefusedError):
            Raw(process.port)

        assert slow.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert process.wait(4) == 0


def test_answers_in_flight_arrive_before_the_close(start_echo: StartEcho) -> None:
    process = start_echo(drain_seconds=2)
    with Raw(process.port) as client:
        client.shake_hands().say("later")
        process.wait_for("later begins")
        process.begin_stop()

        assert client.hear() == (TEXT, b"later")
        assert client.hear_close() == (3001, "shutdown")


def test_a_client_that_does_not_read_cannot_delay_the_end(start_echo: StartEcho) -> None:
    process = start_echo(drain_seconds=1)
    with Raw(process.port, receive_buffer=4096) as client:
        client.shake_hands().say("some")
        process.wait_for("some written")
        process.begin_stop()

        assert process.wait(5) == 0
