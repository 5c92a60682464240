"""
Works off the queue of one provider: claim what is due, decide, deliver, record.

A provider has its own slots, its own quota and its own breaker, so that the outage of one delays nobody else's pushes.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import structlog

from models import threads
from models.deliveries import DuePush, Kind, Result, State
from models.operations import notifications as operations
from models.queries import notifications as queries

from .clearer import Clearer
from .courier import Courier
from .decision import Drop, Send, Wait, decide, kind_of
from .metrics import Metrics
from .payload import Push, ids_only, render, render_summary
from .providers.base import Outcome, Provider, Verdict
from .rate import LastMinute, Quota
from .recorder import Recorder
from .rules import LEASE_SECONDS, Rules

log = structlog.get_logger("push")

# When a slot becomes free others follow: one claim after this time serves them all.
GATHER_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Ready:
    """A push, and the cursors that it serves: one, or several for a summary."""

    push: Push
    dues: tuple[DuePush, ...]
    claimed_at: float


class Sender:
    """The pushes of one provider, in this process."""

    def __init__(self, provider: Provider, recorder: Recorder, rules: Rules, metrics: Metrics) -> None:
        self.courier = Courier(provider, metrics)
        self._clearer = Clearer(self.courier, recorder, rules)
        self._recorder = recorder
        self._rules = rules
        self._metrics = metrics
        self._quota = Quota(getattr(provider, "per_minute", None))
        self._in_flight: set[asyncio.Task[None]] = set()
        # Those of them that have the provider's answer, and are being stored.
        self._answered = 0
        self._last_minute = LastMinute()
        metrics.watch(provider.name, self.courier.breaker, lambda: self._at_provider)
        self._on_free: Callable[[], None] = lambda: None
        # Whether the last claim was full, so that more may be waiting for a slot.
        self._has_backlog = False

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call this when a slot becomes free that somebody waits for."""
        self._on_free = callback

    async def send_due(self) -> bool:
        """Start what is due, as far as slots are free. True if there may be more of it at once."""
        if self._has_backlog and self._in_flight:
            await asyncio.sleep(GATHER_SECONDS)
        free = self._quota.take(self._free_slots())
        if not free:
            return False
        due = await threads.run(
            operations.claim_pushes, provider=self.courier.name, limit=free, lease_seconds=LEASE_SECONDS
        )
        self._metrics.claimed(self.courier.name, due)
        ready = await self._prepare(due)
        for one in ready:
            self._start(self._deliver(one))
        left = free - len(ready)
        clears = await self._clearer.claim(left) if left and len(due) < free else []
        for clear in clears:
            self._start(clear)
        self._quota.put_back(left - len(clears))
        self._has_backlog = len(due) == free or len(clears) == left > 0
        return self._has_backlog and self._free_slots() > 0

    async def finish(self, seconds: float) -> None:
        """Wait for what is in flight. What does not end in time is left to the end of its lease."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=seconds)
            for task in late:
                task.cancel()

    @property
    def _at_provider(self) -> int:
        return len(self._in_flight) - self._answered

    def _free_slots(self) -> int:
        """
        How many more may be claimed: what the provider may have beside what it has.

        A provider need not wait for our database, so what is only being stored takes no slot. While the database is
        slow, as much may wait for it as may be at the provider.
        """
        unfinished = 2 * self.courier.provider.concurrency - len(self._in_flight)
        return max(0, min(self.courier.breaker.slots - self._at_provider, unfinished))

    # --- before it is sent

    async def _prepare(self, due: Sequence[DuePush]) -> list[Ready]:
        """Record what needs no provider, and make the pushes of the rest."""
        claimed_at = time.monotonic()
        results: list[Result] = []
        wanted: list[tuple[DuePush, Kind]] = []
        for one in due:
            # The query has counted what every worker has sent, but not what is still under way here.
            before = max(one.pushes_in_last_minute, self._last_minute.count(one.device_id))
            settled = self._settled(replace(one, pushes_in_last_minute=before))
            if isinstance(settled, Result):
                results.append(settled)
            else:
                wanted.append((one, settled))
                self._last_minute.note(one.device_id)
        badges = await self._badges({one.user_id for one, _ in wanted})
        ready = []
        for kind, group in _summarised(wanted):
            try:
                ready.append(self._rendered(kind, group, badges.get(group[0].user_id, 0), claimed_at))
            except Exception:
                # One poisoned message must not keep the others of its batch from being sent.
                log.exception("push.not_renderable", push_id=str(group[0].push_id))
                self.courier.counts.dead += 1
                self._metrics.not_renderable(self.courier.name)
                results += [Result(due=one, kind=kind, state=State.DEAD, reason="not_renderable") for one in group]
        await self._recorder.record(results)
        return ready

    def _rendered(self, kind: Kind, group: Sequence[DuePush], badge: int, claimed_at: float) -> Ready:
        look = self._rules.look
        if kind is Kind.SUMMARY:
            dues = tuple(replace(one, push_id=group[0].push_id) for one in group)
            return Ready(render_summary(dues, badge=badge, look=look), dues, claimed_at)
        return Ready(render(group[0], kind, badge=badge, look=look), tuple(group), claimed_at)

    async def _badges(self, users: set[UUID]) -> dict[UUID, int]:
        return await threads.run(queries.unread_conversations, users) if users else {}

    def _settled(self, due: DuePush) -> Result | Kind:
        """The result that needs no provider, or the kind of push that is to be sent."""
        decision = decide(due, stale_after=self._rules.stale_after)
        provider = due.device_provider or self._rules.default_provider
        if isinstance(decision, Send) and provider not in self._rules.providers:
            decision = Drop("provider_not_configured")
        match decision:
            case Drop(reason):
                self.courier.counts.dropped += 1
                self._metrics.dropped(reason)
                log.debug("push.dropped", push_id=str(due.push_id), device=str(due.device_id), reason=reason)
                return Result(due=due, kind=kind_of(due), state=State.DROPPED, reason=reason, counts=False)
            case Wait(reason, seconds, defers):
                self._metrics.postponed(reason)
                return Result(
                    due=due,
                    kind=kind_of(due),
                    state=State.PENDING,
                    reason=reason,
                    delay_seconds=seconds,
                    defers=defers,
                    counts=False,
                    # The cursor tells for how long it waits, and whether for the morning.
                    is_silent=True,
                )
            case Send(kind):
                if provider == due.provider:
                    return kind
                return Result(
                    due=due,
                    kind=kind,
                    state=State.PENDING,
                    provider=provider,
                    counts=False,
                    is_silent=True,
                    defers=due.is_deferred,
                )

    # --- sending

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._has_backlog:
            self._on_free()

    async def _deliver(self, ready: Ready) -> None:
        began = time.monotonic()
        outcome = await self._try(ready)
        self._metrics.answered_first(self.courier.name, ready.dues[0], time.monotonic() - ready.claimed_at)
        result = self._result(ready.push, ready.dues[0], outcome, int((time.monotonic() - began) * 1000))
        self.courier.tell(ready.push, ready.dues[0].device_id, result.state, ready.dues[0].attempts, outcome)
        results = [result, *(replace(result, due=due, seq=_newest(due)) for due in ready.dues[1:])]
        self._answered += 1
        if self._has_backlog:
            self._on_free()
        try:
            await self._recorder.record(results)
        finally:
            self._answered -= 1

    async def _try(self, ready: Ready) -> Outcome:
        outcome = await self.courier.attempt(ready.push)
        if outcome.verdict is Verdict.TOO_BIG:
            push_id = str(ready.push.push_id)
            log.warning("push.too_big", push_id=push_id, provider=self.courier.name, code=outcome.code)
            words = self._rules.look.words_of(ready.dues[0].device_locale)
            outcome = await self.courier.attempt(ids_only(ready.push, words))
        return outcome

    def _result(self, push: Push, due: DuePush, outcome: Outcome, milliseconds: int) -> Result:
        state, delay = self.courier.follows(outcome, due.attempts)
        return Result(
            due=due,
            kind=push.kind,
            state=state,
            reason=outcome.code,
            seq=_newest(due) if state is State.SENT else 0,
            delay_seconds=delay,
            defers=due.is_deferred,
            counts=outcome.verdict is not Verdict.PAUSE,
            milliseconds=milliseconds,
            answer=outcome.answer,
            gone_target=push.target if outcome.verdict is Verdict.TARGET_GONE else None,
            gone_at=outcome.gone_at,
        )


def _summarised(wanted: Sequence[tuple[DuePush, Kind]]) -> list[tuple[Kind, list[DuePush]]]:
    """What waited for the end of one device's quiet hours, in several conversations, is one summary."""
    deferred: defaultdict[UUID, list[DuePush]] = defaultdict(list)
    groups: list[tuple[Kind, list[DuePush]]] = []
    for due, kind in wanted:
        if due.is_deferred and kind is Kind.ALERT:
            deferred[due.device_id].append(due)
        else:
            groups.append((kind, [due]))
    for group in deferred.values():
        groups.append((Kind.SUMMARY if len(group) > 1 else Kind.ALERT, group))
    return groups


def _newest(due: DuePush) -> int:
    """The newest message that a push of this cursor tells of."""
    return due.previews[-1].seq if due.previews else due.pending_seq
