"""Who is at the other end: forwarded addresses, and origins."""

from __future__ import annotations

import pytest

from server.peers import Origins, Proxies

PROXIES = Proxies(["10.0.0.0/8", "192.168.1.1", "fd00::/8"])


def client(peer: str, **headers: str | list[str]) -> tuple[str, bool]:
    def get(name: str) -> list[str]:
        value = headers.get(name.replace("-", "_"), [])
        return [value] if isinstance(value, str) else value

    address, is_secure = PROXIES.client((peer, 1234), get)
    assert address
    return address[0], is_secure


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        # What stands before our proxies' word is the client's own.
        ("1.2.3.4, 203.0.113.7", "203.0.113.7"),
        ("1.2.3.4, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
        (["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
        # A client within.
        ("10.7.7.7, 10.1.1.1", "10.7.7.7"),
        # Nonsense is nobody's address.
        ("unknown", "10.0.0.1"),
        ("203.0.113.7, unknown, 10.1.1.1", "10.1.1.1"),
        ("", "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_tells_the_address(chain: str | list[str], expected: str) -> None:
    assert client("10.0.0.1", x_forwarded_for=chain)[0] == expected


def test_nobody_else_does() -> None:
    assert client("203.0.113.9", x_forwarded_for="1.2.3.4", x_forwarded_proto="https") == ("203.0.113.9", False)


def test_a_proxy_may_come_by_a_socket_of_both_families() -> None:
    assert client("::ffff:10.0.0.1", x_forwarded_for="203.0.113.7", x_forwarded_proto="https") == ("203.0.113.7", True)


@pytest.mark.parametrize(("proto", "is_secure"), [("https", True), ("wss", True), ("HTTPS", True), ("http", False)])
def test_a_trusted_proxy_tells_the_scheme(proto: str, is_secure: bool) -> None:
    assert client("192.168.1.1", x_forwarded_proto=proto)[1] is is_secure


def test_without_a_peer_there_is_no_address() -> None:
    assert PROXIES.client(None, lambda name: []) == (None, False)


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        (None, "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com:443", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("https://app.example.com", "chat.example.com", True),
        ("https://app.example.com:8443", "chat.example.com", False),
        ("http://app.example.com", "chat.example.com", False),
        ("http://localhost:3000", "localhost:8000", False),
        ("https://chat.example.com.evil.example", "chat.example.com", False),
        ("https://chat.example.com@evil.example", "chat.example.com", False),
        ("null", "chat.example.com", False),
        ("", "chat.example.com", False),
        ("", "", False),
        ("http://[", "chat.example.com", False),
    ],
)
def test_origins(origin: str | None, host: str, is_allowed: bool) -> None:
    assert Origins(["https://app.example.com/"]).allow(origin, host) is is_allowed


def test_all_origins_may_be_allowed() -> None:
    assert Origins(["*"]).allow("https://anywhere.example", "chat.example.com")
