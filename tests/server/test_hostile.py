"""Clients that mean no good, a hundred at a time: what they cost, and what everybody else notices of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from server.front import LOOK_SECONDS

from .sockets import TEXT, EchoProcess, Raw, flood_until_dropped, frame

CROWD = 100
MAX_MEMORY = 100 << 20
MAX_CORE = 0.1
# What a friend's message may take while the crowd is being dealt with; two noisy cores serve everybody here.
MAX_LATENCY_SECONDS = 1.0

StartEcho = Callable[..., EchoProcess]


class Friend:
    """Sends a message and waits for its echo, again and again; remembers the slowest and how many there were."""

    def __init__(self, port: int) -> None:
        self._raw = Raw(port).shake_hands()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.slowest = 0.0
        self.echoes = 0

    def __enter__(self) -> Friend:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._raw.socket.close()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            self._raw.say("hello")
            assert self._raw.hear() == (TEXT, b"hello")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.echoes += 1


@contextmanager
def memory_peak(process: EchoProcess) -> Iterator[Callable[[], int]]:
    """Watch what a process needs at most beyond what it needs now."""
    before, highest = process.memory, [process.memory]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], process.memory)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: highest[0] - before
    finally:
        stop.set()
        thread.join()


def core_used(process: EchoProcess, seconds: float = 2.0) -> float:
    """The part of a core that a process uses from now on."""
    before = process.cpu_seconds
    time.sleep(seconds)  # the thing measured is a rate
    return (process.cpu_seconds - before) / seconds


@pytest.fixture
def process(start_echo: StartEcho) -> EchoProcess:
    return start_echo()


def test_clients_that_stop_reading(process: EchoProcess) -> None:
    with ExitStack() as stack:
        friend = stack.enter_context(Friend(process.port))
        peak = stack.enter_context(memory_peak(process))
        crowd = [stack.enter_context(Raw(process.port, receive_buffer=4096)).shake_hands() for _ in range(CROWD)]
        # Its application writes to it for as long as it may.
        for client in crowd:
            client.say("pour")
        process.wait_for(rf"(disconnect 3008\n(.*\n)*?){{{CROWD}}}", seconds=30)

        # Who reads after all is told why; the others are dropped.
        assert crowd[-1].hear_close() == (3008, "slow")
        for client in crowd[:-1]:
            client.wait_dropped()
        assert core_used(process) < MAX_CORE
        assert friend.slowest < MAX_LATENCY_SECONDS
        assert friend.echoes > 20
        assert peak() < MAX_MEMORY


def test_clients_that_flood(process: EchoProcess) -> None:
    with ExitStack() as stack:
        friend = stack.enter_context(Friend(process.port))
        peak = stack.enter_context(memory_peak(process))
        crowd = [stack.enter_context(Raw(process.port)).shake_hands() for _ in range(CROWD)]
        flood_until_dropped([client.socket for client in crowd], frame(TEXT, b"x" * 200) * 100)

        assert process.log.count("disconnect 3008") == CROWD
        assert core_used(process) < MAX_CORE
        assert friend.slowest < MAX_LATENCY_SECONDS
        assert friend.echoes > 20
        assert peak() < MAX_MEMORY


def test_clients_that_send_two_bytes_and_wait(process: EchoProcess) -> None:
    with ExitStack() as stack:
        friend = stack.enter_context(Friend(process.port))
        peak = stack.enter_context(memory_peak(process))
        crowd = [stack.enter_context(Raw(process.port)) for _ in range(CROWD)]
        for client in crowd:
            client.send(b"GE")
        # While it waits for them, too; the friend alone uses some of it.
        assert core_used(process, LOOK_SECONDS / 2) < MAX_CORE

        for client in crowd:
            client.hear_end()
        assert core_used(process) < MAX_CORE
        assert friend.slowest < MAX_LATENCY_SECONDS
        assert friend.echoes > 20
        assert peak() < MAX_MEMORY
