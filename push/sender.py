"""
Works off the queue of one provider: claim what is due, decide, deliver, record.

A provider has its own slots and its own breaker, so that the outage of one delays nobody else's pushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from models import threads
from models.deliveries import DueDelivery, Result, State
from models.operations import notifications as operations
from models.queries import notifications as queries

from . import backoff
from .breaker import Breaker
from .decision import reason_to_drop
from .payload import Push, ids_only, render
from .providers.base import Outcome, Provider, Verdict, fingerprint
from .recorder import Recorder

log = structlog.get_logger("push")

# Longer than any try, including the wait for the database afterwards: while it lasts nobody else sends this push.
LEASE_SECONDS = 60.0
# What a provider promises to keep below.
DELIVER_SECONDS = 30.0
# When a slot becomes free others follow: one claim after this time serves them all.
GATHER_SECONDS = 0.02
# Longer than any push lives; what a provider asks for beyond it is nonsense.
MAX_RETRY_SECONDS = 28 * 86_400.0


@dataclass(slots=True)
class Counts:
    """What one sender has done since it was started; part of the heartbeat."""

    sent: int = 0
    dropped: int = 0
    retried: int = 0
    dead: int = 0


class Sender:
    """The deliveries of one provider, in this process."""

    def __init__(self, provider: Provider, recorder: Recorder, *, default_provider: str, providers: frozenset[str]):
        self.provider = provider
        self.breaker = Breaker(provider.concurrency)
        self.counts = Counts()
        self._recorder = recorder
        self._default_provider = default_provider
        self._providers = providers
        self._in_flight: set[asyncio.Task[None]] = set()
        self._on_free: Callable[[], None] = lambda: None
        # Whether the last claim was full, so that more may be waiting for a slot.
        self._has_backlog = False

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call this when a slot becomes free that somebody waits for."""
        self._on_free = callback

    async def send_due(self) -> bool:
        """Start the deliveries that are due, as far as slots are free. True if there may be more of them at once."""
        if self._has_backlog and self._in_flight:
            await asyncio.sleep(GATHER_SECONDS)
        free = self._free_slots()
        if not free:
            return False
        due = await threads.run(
            operations.claim_deliveries, provider=self.provider.name, limit=free, lease_seconds=LEASE_SECONDS
        )
        self._has_backlog = len(due) == free
        for push, delivery in await self._prepare(due):
            self._start(push, delivery)
        return self._has_backlog and self._free_slots() > 0

    async def finish(self, seconds: float) -> None:
        """Wait for what is in flight. What does not end in time is left to the end of its lease."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=seconds)
            for task in late:
                task.cancel()

    def _free_slots(self) -> int:
        return max(0, self.breaker.slots - len(self._in_flight))

    async def _prepare(self, due: Sequence[DueDelivery]) -> list[tuple[Push, DueDelivery]]:
        """Record what needs no provider, and make the pushes of the rest."""
        settled = [(delivery, self._settled(delivery)) for delivery in due]
        wanted = [delivery for delivery, result in settled if result is None]
        results = [result for _, result in settled if result is not None]
        badges = await self._badges(wanted)
        pushes = []
        for delivery in wanted:
            try:
                pushes.append((render(delivery, badge=badges.get(delivery.user_id, 0)), delivery))
            except Exception:
                # One poisoned message must not keep the others of its batch from being sent.
                log.exception("push.not_renderable", push_id=str(delivery.id))
                results.append(Result(delivery=delivery, state=State.DEAD, reason="not_renderable"))
        await self._recorder.record(results)
        return pushes

    async def _badges(self, wanted: Sequence[DueDelivery]) -> dict[UUID, int]:
        users = {delivery.user_id for delivery in wanted}
        return await threads.run(queries.unread_conversations, users) if users else {}

    def _settled(self, delivery: DueDelivery) -> Result | None:
        """The result that needs no provider, if there is one."""
        reason = reason_to_drop(delivery)
        provider = delivery.device_provider or self._default_provider
        if reason is None and provider not in self._providers:
            reason = "provider_not_configured"
        if reason is not None:
            self.counts.dropped += 1
            log.debug("push.dropped", push_id=str(delivery.id), device=str(delivery.device_id), reason=reason)
            return Result(delivery=delivery, state=State.DROPPED, reason=reason, counts=False)
        if provider != delivery.provider:
            return Result(delivery=delivery, state=State.PENDING, provider=provider, counts=False)
        return None

    def _start(self, push: Push, delivery: DueDelivery) -> None:
        task = asyncio.create_task(self._deliver(push, delivery))
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._has_backlog:
            self._on_free()

    async def _deliver(self, push: Push, delivery: DueDelivery) -> None:
        outcome = await self._try(push)
        result = self._result(delivery, outcome)
        log.info(
            "push." + result.state,
            push_id=str(push.push_id),
            device=str(delivery.device_id),
            target=fingerprint(push.target),
            provider=self.provider.name,
            attempt=delivery.attempts,
            outcome=outcome.verdict.name.lower(),
            code=outcome.code,
        )
        await self._recorder.record([result])

    async def _try(self, push: Push) -> Outcome:
        outcome = await self._attempt(push)
        if outcome.verdict is Verdict.TOO_BIG:
            log.warning("push.too_big", push_id=str(push.push_id), provider=self.provider.name, code=outcome.code)
            outcome = await self._attempt(ids_only(push))
        return outcome

    async def _attempt(self, push: Push) -> Outcome:
        try:
            async with asyncio.timeout(DELIVER_SECONDS):
                return await self.provider.deliver(push)
        except TimeoutError:
            return Outcome(Verdict.RETRY, "no_answer")
        except Exception:
            # A bug in a provider must not stop the others' pushes, nor lose this one.
            log.exception("push.provider_failed", push_id=str(push.push_id), provider=self.provider.name)
            return Outcome(Verdict.RETRY, "provider_failed")

    def _result(self, delivery: DueDelivery, outcome: Outcome) -> Result:
        if outcome.verdict is Verdict.PAUSE:
            self._paused(outcome, self.breaker.refused())
            return Result(delivery=delivery, state=State.PENDING, reason=outcome.code, counts=False)
        if outcome.verdict is Verdict.RETRY:
            self.counts.retried += 1
            self._paused(outcome, self.breaker.failed())
            delay = min(backoff.retry_delay(delivery.attempts, outcome.retry_after), MAX_RETRY_SECONDS)
            return Result(delivery=delivery, state=State.PENDING, reason=outcome.code, delay_seconds=delay)
        self._accepted()
        if outcome.verdict is Verdict.TARGET_GONE:
            self.counts.dropped += 1
            return Result(
                delivery=delivery,
                state=State.DROPPED,
                reason=outcome.code,
                # In case that it is in use again.
                delay_seconds=backoff.retry_delay(delivery.attempts),
                gone_target=delivery.target,
                gone_at=outcome.gone_at,
            )
        if outcome.verdict in (Verdict.REJECTED, Verdict.TOO_BIG):
            self.counts.dead += 1
            return Result(delivery=delivery, state=State.DEAD, reason=outcome.code)
        self.counts.sent += 1
        return Result(delivery=delivery, state=State.SENT)

    def _paused(self, outcome: Outcome, seconds: float | None) -> None:
        if seconds is not None:
            log.error("push.provider_paused", provider=self.provider.name, code=outcome.code, seconds=round(seconds, 1))

    def _accepted(self) -> None:
        if self.breaker.accepted():
            log.info("push.provider_resumed", provider=self.provider.name)
