"""What an encoding of the protocol has to offer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .messages import Command, Publication, Raw, Reply


class Undecodable(Exception):
    """A frame that is not the protocol's; the connection is closed with 3501."""


class Unsuitable(Exception):
    """Data that this encoding cannot carry; the connection is closed with 3506."""


class Codec(Protocol):
    """One encoding."""

    name: str
    subprotocol: str
    # Whether what it carries has to be text.
    is_text: bool
    ping: bytes

    def decode(self, payload: bytes) -> list[Command]:
        """
        Read the commands of one frame.

        Raises:
            Undecodable: it holds none, or something else.
        """

    def check(self, data: bytes) -> Raw:
        """
        Take an application's bytes as they are.

        Raises:
            Unsuitable: they cannot be part of this encoding.
        """

    def wrap_delta(self, data: bytes) -> Raw:
        """Take a full payload, or a patch, for a subscription with deltas."""

    def encode(self, reply: Reply) -> bytes:
        """Write one reply."""

    def encode_rpc(self, id: int, data: bytes) -> bytes:
        """Write the answer to an rpc; ``data`` goes in as it is."""

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        """Write a publication's push."""

    def frame(self, replies: Sequence[bytes]) -> bytes:
        """Put replies into one finished frame."""

    def body(self, replies: Sequence[bytes]) -> bytes:
        """Put replies into a stream without frames."""
