"""``manage.py serve``: what it says when it cannot start, and its life with the real engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from server.children import ROOT
from tests.servers import Deployment

from .sockets import Raw


def complaint(*words: str, **settings: str) -> str:
    """Run it, expecting it to end by itself; return the last thing it said."""
    environment = {**os.environ, **{f"ROOST_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "manage.py", "serve", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_setting_that_is_no_network_is_named() -> None:
    assert complaint(trusted_proxies="10.0.0.0/8, caddy") == (
        "CommandError: ROOST_TRUSTED_PROXIES is not a list of networks: "
        "'caddy' does not appear to be an IPv4 or IPv6 network."
    )


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert complaint("--port", str(port)) == (
            f"CommandError: Cannot listen on 127.0.0.1:{port}: Address already in use."
        )


@pytest.mark.parametrize("lane", ["picows", "daphne"])
def test_sigterm_ends_it_within_the_drain_time(deploy: Callable[..., Deployment], lane: str) -> None:
    deployment = deploy(environment={"ROOST_DRAIN_SECONDS": "2", "ROOST_SOCKET_LANE": lane})
    web = deployment.webs[0]
    with Raw(web.port) as client:
        client.shake_hands()
        began = time.monotonic()
        web.signal(signal.SIGTERM)

        assert client.hear_close() == (3001, "shutdown")
        assert web.wait() == 0
        assert time.monotonic() - began < 2 + 3
    assert "Traceback" not in web.log
