"""Keeps pushes in a list; for tests, ours and those of apps."""

from __future__ import annotations

from collections import defaultdict

from ..payload import Push
from .base import Outcome, Verdict


class MemoryProvider:
    """Answers with what was put into ``outcomes`` for a target, one after the other, else with "sent"."""

    name = "memory"

    def __init__(self, name: str = "memory", concurrency: int = 8) -> None:
        self.name = name
        self.concurrency = concurrency
        self.tries: list[Push] = []
        self.sent: list[Push] = []
        self.outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)

    async def deliver(self, push: Push) -> Outcome:
        self.tries.append(push)
        script = self.outcomes[push.target]
        outcome = script.pop(0) if script else Outcome(Verdict.SENT)
        if outcome.verdict is Verdict.SENT:
            self.sent.append(push)
        return outcome

    async def close(self) -> None:
        """Nothing to let go of."""
