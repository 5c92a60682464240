"""Fixtures for tests of the socket layers: echo processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from .sockets import EchoProcess


@pytest.fixture
def start_echo() -> Iterator[Callable[..., EchoProcess]]:
    """``start_echo(drain_seconds=2, …)`` starts an ``EchoProcess``; it is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(EchoProcess(**settings))
