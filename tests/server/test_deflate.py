"""permessage-deflate: what is agreed, what is refused, and what a hostile client gets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import pytest

from consumers.protocol.framing import binary_frame, text_frame
from server.deflate import LARGEST, LEAST_BYTES, TAIL, TooLong, compress, inflate, negotiate

from .sockets import BINARY, CONTINUATION, PING, TEXT, EchoProcess, Raw

OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
RSV1 = 0x40
LIMIT = 4096
WITHOUT_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (["permessage-deflate"], (WITHOUT_TAKEOVER, 15)),
        (["permessage-deflate; client_max_window_bits"], (WITHOUT_TAKEOVER, 15)),
        (["permessage-deflate; client_max_window_bits=8"], (WITHOUT_TAKEOVER, 15)),
        (["x-webkit-deflate-frame, permessage-deflate"], (WITHOUT_TAKEOVER, 15)),
        (["permessage-deflate; server_max_window_bits=10"], (f"{WITHOUT_TAKEOVER}; server_max_window_bits=10", 10)),
        (["permessage-deflate; server_max_window_bits=8, permessage-deflate"], (WITHOUT_TAKEOVER, 15)),
        (["permessage-deflate; server_max_window_bits=8"], None),
        (["permessage-deflate; server_max_window_bits=16"], None),
        (["permessage-deflate; client_max_window_bits=7"], None),
        (["permessage-deflate; client_max_window_bits; client_max_window_bits"], None),
        (["permessage-deflate; server_no_context_takeover=1"], None),
        (["permessage-deflate; something"], None),
        (["", "permessage-bzip"], None),
        ([], None),
    ],
)
def test_first_offer_that_can_be_kept_is_taken(offers: list[str], answer: tuple[str, int] | None) -> None:
    assert negotiate(offers) == answer


@pytest.mark.parametrize("size", [LEAST_BYTES, 126, 65535, 65536, 100_000])
@pytest.mark.parametrize("make", [text_frame, binary_frame])
def test_compressed_frame_holds_the_message(size: int, make: Callable[[bytes], bytes]) -> None:
    payload = b"Roost " * (size // 6 + 1)
    frame = compress(make(payload), 9)

    assert len(frame) < size
    assert frame[0] == make(b"")[0] | 0x40
    start = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    assert inflate(frame[start:], len(payload)) == payload


def test_what_would_not_become_smaller_is_sent_as_it_is() -> None:
    assert compress(text_frame(b"short"), LARGEST) == text_frame(b"short")
    noise = binary_frame(bytes(range(256)))
    assert compress(noise, LARGEST) == noise


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    with pytest.raises(TooLong):
        inflate(deflated(bytes(10_000_000)), 65536)


# --- over real sockets


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoProcess]:
    with EchoProcess(compress_websockets=True, max_frame_bytes=LIMIT) as process:
        yield process


@pytest.fixture
def client(echo: EchoProcess) -> Iterator[Raw]:
    with Raw(echo.port) as raw:
        yield raw.shake_hands(headers=OFFER)


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def test_it_is_off_unless_it_is_set() -> None:
    with EchoProcess() as process, Raw(process.port) as client:
        client.shake_hands(headers=OFFER).send_frame(TEXT | RSV1, deflated(b"hello"))
        assert client.hear_close() == (1002, "reserved bit")


def test_who_does_not_offer_it_gets_everything_as_it_is(echo: EchoProcess) -> None:
    with Raw(echo.port) as client:
        client.shake_hands().say("hello " * 100)
        assert client.hear() == (TEXT, b"hello " * 100)
        client.send_frame(TEXT | RSV1, deflated(b"hello"))
        assert client.hear_close() == (1002, "reserved bit")


@pytest.mark.parametrize("first", [TEXT, BINARY])
def test_compressed_messages_are_echoed_compressed(client: Raw, first: int) -> None:
    client.send_frame(first | RSV1, deflated(b"hello " * 100))
    head, payload = client.hear()
    assert (head, inflate(payload, LIMIT)) == (first | RSV1, b"hello " * 100)
    # Nothing is left of it for the next one.
    client.send_frame(first, b"plain")
    assert client.hear() == (first, b"plain")


def test_a_compressed_message_may_come_in_pieces(client: Raw) -> None:
    payload = deflated("жук ".encode() * 100)
    client.send_frame((TEXT | RSV1) & 0x7F, payload[:7])
    client.send_frame(PING, b"between")
    client.send_frame(CONTINUATION, payload[7:])
    assert client.hear()[1] == b"between"
    assert inflate(client.hear()[1], LIMIT) == "жук ".encode() * 100


@pytest.mark.parametrize(
    ("first", "payload", "close"),
    [
        (TEXT | RSV1, deflated(bytes(LIMIT + 1)), (1009, "message too big")),
        (TEXT | RSV1, deflated(b"\xff\xfe"), (1007, "invalid UTF-8")),
        (TEXT | RSV1, b"\xff\xff\xff", (1007, "invalid compressed data")),
        (TEXT | 0x20, b"", (1002, "reserved bit")),
        (TEXT | RSV1 | 0x10, b"", (1002, "reserved bit")),
        (CONTINUATION | RSV1, b"", (1002, "reserved bit")),
        (PING | RSV1, b"", (1002, "reserved bit")),
    ],
)
def test_mistakes_are_told(client: Raw, first: int, payload: bytes, close: tuple[int, str]) -> None:
    client.send_frame(first, payload)
    assert client.hear_close() == close
