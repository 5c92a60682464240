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
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from models import threads
from models.deliveries import ClearResult, DueClear, DuePush, Kind, Result, State
from models.operations import notifications as operations
from models.queries import notifications as queries

from . import backoff
from .breaker import Breaker
from .decision import Drop, Send, Wait, decide, kind_of, reason_to_drop_clear
from .metrics import Metrics
from .payload import Look, Push, ids_only, render, render_clear, render_summary
from .providers.base import Outcome, Provider, Verdict, fingerprint
from .rate import LastMinute, Quota
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
# What has not been taken off a screen by then is old news anyway.
CLEAR_LIFE = timedelta(days=1)
# A clear is a courtesy: it is not tried for ever.
MAX_CLEAR_ATTEMPTS = 8


@dataclass(slots=True)
class Counts:
    """What one sender has done since it was started; part of the heartbeat."""

    sent: int = 0
    dropped: int = 0
    retried: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all senders of a worker."""

    default_provider: str
    providers: frozenset[str]
    look: Look
    stale_after: timedelta


@dataclass(frozen=True, slots=True)
class Ready:
    """A push, and the cursors that it serves: one, or several for a summary."""

    push: Push
    dues: tuple[DuePush, ...]
    claimed_at: float


class Sender:
    """The pushes of one provider, in this process."""

    def __init__(self, provider: Provider, recorder: Recorder, rules: Rules, metrics: Metrics) -> None:
        self.provider = provider
        self.breaker = Breaker(provider.concurrency)
        self.counts = Counts()
        self._recorder = recorder
        self._rules = rules
        self._metrics = metrics
        self._quota = Quota(getattr(provider, "per_minute", None))
        self._in_flight: set[asyncio.Task[None]] = set()
        self._last_minute = LastMinute()
        metrics.watch(provider.name, self.breaker, self._in_flight.__len__)
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
            operations.claim_pushes, provider=self.provider.name, limit=free, lease_seconds=LEASE_SECONDS
        )
        self._metrics.claimed(self.provider.name, due)
        ready = await self._prepare(due)
        for one in ready:
            self._start(self._deliver(one))
        left = free - len(ready)
        clears = await self._start_clears(left) if left and len(due) < free else 0
        self._quota.put_back(left - clears)
        self._has_backlog = len(due) == free or clears == left > 0
        return self._has_backlog and self._free_slots() > 0

    async def finish(self, seconds: float) -> None:
        """Wait for what is in flight. What does not end in time is left to the end of its lease."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=seconds)
            for task in late:
                task.cancel()

    def _free_slots(self) -> int:
        return max(0, self.breaker.slots - len(self._in_flight))

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
                self.counts.dead += 1
                self._metrics.not_renderable(self.provider.name)
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
                self.counts.dropped += 1
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
        self._metrics.answered_first(self.provider.name, ready.dues[0], time.monotonic() - ready.claimed_at)
        result = self._result(ready.push, ready.dues[0], outcome, int((time.monotonic() - began) * 1000))
        self._tell(ready.push, result.state, ready.dues[0].attempts, outcome)
        await self._recorder.record([result, *(replace(result, due=due, seq=_newest(due)) for due in ready.dues[1:])])

    async def _try(self, ready: Ready) -> Outcome:
        outcome = await self._attempt(ready.push)
        if outcome.verdict is Verdict.TOO_BIG:
            push_id = str(ready.push.push_id)
            log.warning("push.too_big", push_id=push_id, provider=self.provider.name, code=outcome.code)
            words = self._rules.look.words_of(ready.dues[0].device_locale)
            outcome = await self._attempt(ids_only(ready.push, words))
        return outcome

    async def _attempt(self, push: Push) -> Outcome:
        began = time.monotonic()
        outcome = await self._outcome(push)
        self._metrics.tried(self.provider.name, outcome, time.monotonic() - began)
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

    def _result(self, push: Push, due: DuePush, outcome: Outcome, milliseconds: int) -> Result:
        state, delay = self._follows(outcome, due.attempts)
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

    def _follows(self, outcome: Outcome, attempts: int) -> tuple[State, float]:
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

    def _tell(self, push: Push, state: State, attempt: int, outcome: Outcome) -> None:
        self._metrics.ended(self.provider.name, push.kind, state, outcome)
        log.info(
            "push." + state,
            push_id=str(push.push_id),
            kind=push.kind.value,
            target=fingerprint(push.target),
            provider=self.provider.name,
            attempt=attempt,
            outcome=outcome.verdict.name.lower(),
            code=outcome.code,
        )

    # --- clears

    async def _start_clears(self, limit: int) -> int:
        """Start telling devices what to take off their screens; return how many that are."""
        due = await threads.run(
            operations.claim_clears, provider=self.provider.name, limit=limit, lease_seconds=LEASE_SECONDS
        )
        settled = [(one, self._settled_clear(one)) for one in due]
        await self._recorder.record_clears([result for _, result in settled if result])
        wanted = [one for one, result in settled if not result]
        badges = await self._badges({one.user_id for one in wanted})
        for one in wanted:
            self._start(self._deliver_clear(one, badges.get(one.user_id, 0)))
        return len(wanted)

    def _settled_clear(self, due: DueClear) -> ClearResult | None:
        provider = due.device_provider or self._rules.default_provider
        reason = reason_to_drop_clear(due)
        if reason is None and provider not in self._rules.providers:
            reason = "provider_not_configured"
        if reason is None and due.attempts > MAX_CLEAR_ATTEMPTS:
            reason = "too_many_attempts"
        if reason is not None:
            self._metrics.dropped(reason)
            return ClearResult(due=due, state=State.DROPPED, reason=reason)
        return None if provider == due.provider else ClearResult(due=due, state=State.PENDING, provider=provider)

    async def _deliver_clear(self, due: DueClear, badge: int) -> None:
        push = render_clear(
            due, badge=badge, ttl_seconds=int(CLEAR_LIFE.total_seconds()), expires_at=due.now + CLEAR_LIFE
        )
        outcome = await self._attempt(push)
        state, delay = self._follows(outcome, due.attempts)
        self._tell(push, state, due.attempts, outcome)
        gone = due.target if outcome.verdict is Verdict.TARGET_GONE else None
        result = ClearResult(
            due=due, state=state, reason=outcome.code, delay_seconds=delay, gone_target=gone, gone_at=outcome.gone_at
        )
        await self._recorder.record_clears([result])


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
