"""Prints pushes; the default as long as no credentials are given."""

from __future__ import annotations

import sys
from typing import TextIO

from ..payload import Push
from .base import Outcome, Verdict, fingerprint


class ConsoleProvider:
    """Writes one line per push, for whoever tries Roost out."""

    name = "console"
    concurrency = 8

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    async def deliver(self, push: Push) -> Outcome:
        target = f"{push.platform or 'unknown'} {fingerprint(push.target)}"
        words = " ".join(f"{push.title} | {push.body}".split()) if push.title else push.kind.value
        print(f"push to {target} | {words}", file=self._stream, flush=True)
        return Outcome(Verdict.SENT)

    async def close(self) -> None:
        """Nothing to let go of."""
