"""
A process that does nothing but write: ``python -m tests.models.writing_process DSN SECONDS PAIRS RESULT``.

Reads pairs of conversation and sender from one file, and writes what was acknowledged to another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from uuid import UUID

import django
import msgspec
import uvloop

Pairs = list[tuple[UUID, UUID]]
Acknowledged = list[tuple[UUID, int, UUID]]


async def write(dsn: str, pairs: Pairs, seconds: float) -> Acknowledged:
    """Send in every conversation at once until the time is over; removed members are refused, and try again."""
    from models.errors import ConversationNotFound

    from .scene import draft, writing

    acknowledged: Acknowledged = []
    end = time.monotonic() + seconds
    async with writing(where=dsn) as writer:

        async def keep_sending(conversation: UUID, sender: UUID) -> None:
            while time.monotonic() < end:
                try:
                    stored = await writer.send(draft(conversation, sender))
                except ConversationNotFound:
                    continue
                acknowledged.append((stored.conversation, stored.seq, stored.id))

        await asyncio.gather(*(keep_sending(*pair) for pair in pairs))
    return acknowledged


def main() -> None:
    django.setup()
    dsn, seconds, pairs, result = sys.argv[1:]
    wanted = msgspec.json.decode(Path(pairs).read_bytes(), type=Pairs)
    acknowledged = uvloop.run(write(dsn, wanted, float(seconds)))
    Path(result).write_bytes(msgspec.json.encode(acknowledged))


if __name__ == "__main__":
    main()
