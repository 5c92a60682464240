"""Finished websocket frames of a server: unmasked, unfragmented (RFC 6455, section 5.2)."""

TEXT = 0x81
BINARY = 0x82


def text_frame(payload: bytes) -> bytes:
    """Wrap UTF-8 text."""
    return frame(TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Wrap bytes."""
    return frame(BINARY, payload)


def frame(first: int, payload: bytes) -> bytes:
    """Put a header before a payload; ``first`` holds the flags and the opcode."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
