"""
Gives pushes to one provider, and says what follows from its answers.

A try, its time and its answer; the breaker, the counts and the log line. Who is told of what, and how it is recorded,
is the business of those who call it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

import structlog

from models.deliveries import State

from . import backoff
from .breaker import Breaker
from .metrics import Metrics
from .payload import Push
from .providers.base import Outcome, Provider, Verdict, fingerprint

log = structlog.get_logger("push")

# What a provider promises to keep below.
DELIVER_SECONDS = 30.0
# Longer than any push lives; what a provider asks for beyond it is nonsense.
MAX_RETRY_SECONDS = 28 * 86_400.0


@dataclass(slots=True)
class Counts:
    """What one sender has done since it was started; part of the heartbeat."""

    sent: int = 0
    dropped: int = 0
    retried: int = 0
    dead: int = 0


class Courier:
    """One provider, in this process."""

    def __init__(self, provider: Provider, metrics: Metrics) -> None:
        self.provider = provider
        self.breaker = Breaker(provider.concurrency)
        self.counts = Counts()
        self.metrics = metrics

    @property
    def name(self) -> str:
        return self.provider.name

    async def attempt(self, push: Push) -> Outcome:
        """Try once. Never raises: what a provider does wrong is an outcome."""
        began = time.monotonic()
        outcome = await self._outcome(push)
        self.metrics.tried(self.provider.name, outcome, time.monotonic() - began)
        return outcome

    async def _outcome(self, push: Push) -> Outcome:
        try:
            async with asyncio.timeout(DELIVER_SECONDS):
                return await self.provider.deliver(push)
        except TimeoutError:
            return Outcome(Verdict.RETRY, "no_answer", answer=f"No answer within {DELIVER_SECONDS:.0f} seconds")
        except Exception as error:
            # A bug in a provider must not stop the others' pushes, nor lose this one.
            log.exception("push.provider_failed", push_id=str(push.push_id), provider=self.provider.name)
            return Outcome(Verdict.RETRY, "provider_failed", answer=type(error).__name__)

    def follows(self, outcome: Outcome, attempts: int) -> tuple[State, float]:
        """What follows from an outcome: the state, and after how many seconds a push may be tried again."""
        match outcome.verdict:
            case Verdict.PAUSE:
                self._paused(outcome, self.breaker.refused())
                return State.PENDING, 0.0
            case Verdict.RETRY:
                self.counts.retried += 1
                if outcome.is_about_target:
                    # The provider is well: what it says of one device must not hold up the others'.
                    self._accepted()
                else:
                    self._paused(outcome, self.breaker.failed())
                return State.PENDING, min(backoff.retry_delay(attempts, outcome.retry_after), MAX_RETRY_SECONDS)
        self._accepted()
        match outcome.verdict:
            case Verdict.TARGET_GONE:
                self.counts.dropped += 1
                # The delay is for a target that is in use again.
                return State.DROPPED, backoff.retry_delay(attempts)
            case Verdict.REJECTED | Verdict.TOO_BIG:
                self.counts.dead += 1
                return State.DEAD, 0.0
        self.counts.sent += 1
        return State.SENT, 0.0

    def _paused(self, outcome: Outcome, seconds: float | None) -> None:
        if seconds is not None:
            log.error("push.provider_paused", provider=self.provider.name, code=outcome.code, seconds=round(seconds, 1))

    def _accepted(self) -> None:
        if self.breaker.accepted():
            log.info("push.provider_resumed", provider=self.provider.name)

    def tell(self, push: Push, device: UUID, state: State, attempt: int, outcome: Outcome) -> None:
        """Count a try, and log it: no target, no text."""
        self.metrics.ended(self.provider.name, push.kind, state, outcome)
        log.info(
            "push." + state,
            push_id=str(push.push_id),
            kind=push.kind.value,
            device=str(device),
            target=fingerprint(push.target),
            provider=self.provider.name,
            attempt=attempt,
            outcome=outcome.verdict.name.lower(),
            code=outcome.code,
        )
