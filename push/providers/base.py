"""What a provider is: it carries one push and says how that went. Nothing else is expected of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from ..payload import Push

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


# The code of a try of which nothing has left us, so that nobody can have the push. After ``timeout`` and
# ``connection_failed`` the provider may have it.
NOT_CONNECTED = "not_connected"


class Verdict(Enum):
    """What follows from a try."""

    SENT = auto()
    # Forget the target, if it is still the one that was sent to.
    TARGET_GONE = auto()
    # Try this push again later.
    RETRY = auto()
    # Once more, with ids instead of words; if that is too big as well, no repetition will help.
    TOO_BIG = auto()
    # Our mistake, or this push's: no repetition will help, and the target is fine.
    REJECTED = auto()
    # The provider refuses us, not this push: keep everything and ask again later.
    PAUSE = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a try went; ``code`` is the provider's word for it, without anything secret or personal.

    ``gone_at`` is since when a target is gone, if the provider says so: a device that registered later keeps it.
    What ``is_about_target`` says nothing about the provider: the others' pushes go on. ``answer`` is what the provider
    said, for a person to read; without anything secret or personal as well.
    """

    verdict: Verdict
    code: str = ""
    retry_after: float | None = None
    gone_at: datetime | None = None
    is_about_target: bool = False
    # Nothing follows from it, so that outcomes with other words are the same outcome.
    answer: str = field(default="", compare=False)


class Provider(Protocol):
    """
    Carries pushes.

    ``deliver`` is awaited up to ``concurrency`` times at once. It must not block the event loop, must not repeat a
    push on its own, and must end within 30 seconds: after that the outcome is unknown, and the push is tried again.

    A provider that has a quota says so with ``per_minute``, a number: more than that is not given to it in a minute.
    """

    name: str
    concurrency: int

    async def deliver(self, push: Push) -> Outcome:
        """Try once."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


def web_topic(push: Push) -> str:
    """
    The ``Topic`` of a Web Push: of those that wait for a browser the service keeps the last one under each name.

    At most 32 characters of base64url (RFC 8030, section 5.4): a UUID without its hyphens has just as many.
    """
    try:
        return UUID(push.collapse).hex
    except ValueError:
        return push.collapse if _TOPIC.fullmatch(push.collapse) else push.push_id.hex


def fingerprint(target: str) -> str:
    """Eight hex digits that stand for a push target in logs."""
    return hashlib.sha256(target.encode()).hexdigest()[:8]
