"""
Who is at the other end: the client's address and scheme behind proxies, and which pages may open websockets.

Plain functions of headers and settings, used alike by every socket layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

# All values of the header with a (lower-case) name.
GetHeaders = Callable[[str], Iterable[str]]
Address = tuple[str, int]

_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Proxies:
    """The networks whose word on where a request came from is believed."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """
        Raises:
            ValueError: one of them is no network.
        """
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in networks]

    def client(self, peer: Address | None, headers: GetHeaders) -> tuple[Address | None, bool]:
        """
        Return the client's address, and whether it came by TLS.

        A forwarded address has no port that means anything: it is 0.
        """
        if peer is None:
            return None, False
        address = _parse(peer[0])
        if address is None or not self._includes(address):
            return (str(address) if address else peer[0], peer[1]), False
        is_secure = next(iter(words(headers("x-forwarded-proto"))), "").lower() in ("https", "wss")
        forwarded = self._first_stranger(words(headers("x-forwarded-for")))
        return (peer if forwarded is None else (str(forwarded), 0)), is_secure

    def _first_stranger(self, chain: list[str]) -> IPv4Address | IPv6Address | None:
        # Read from our end. What stands before the first address that is not ours is that client's own word.
        found = None
        for text in reversed(chain):
            address = _parse(text)
            if address is None:
                break
            found = address
            if not self._includes(address):
                break
        return found

    def _includes(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


class Origins:
    """The pages that may open websockets here: those of the own host, and those that are allowed by name."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = {origin.lower().rstrip("/") for origin in allowed}

    def allow(self, origin: str | None, host: str) -> bool:
        """Native apps send no origin; a browser always does, and a page cannot change it."""
        if origin is None or "*" in self._allowed:
            return True
        origin = origin.lower()
        return origin in self._allowed or _is_same_host(origin, host.lower())


def words(values: Iterable[str]) -> list[str]:
    """Split header values at their commas; empty words do not count."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


def _is_same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    suffix = ":" + _DEFAULT_PORTS.get(parts.scheme, "")
    return bool(parts.netloc) and parts.netloc.removesuffix(suffix) == host.removesuffix(suffix)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address as proxies write it, also with a port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket that listens on both families names IPv4 clients like this.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
