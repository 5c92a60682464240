"""
Tells devices what to take off their screens: claim what is due, decide, deliver, record.

A clear is a courtesy: it takes the slots that pushes leave free, and is not tried for ever.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from models import threads
from models.deliveries import ClearResult, DueClear, State
from models.operations import notifications as operations
from models.queries import notifications as queries

from .courier import Courier
from .decision import reason_to_drop_clear
from .payload import render_clear
from .providers.base import Verdict
from .recorder import Recorder
from .rules import LEASE_SECONDS, Rules

# What has not been taken off a screen by then is old news anyway.
CLEAR_LIFE = timedelta(days=1)
MAX_ATTEMPTS = 8


class Clearer:
    """The clears of one provider, in this process."""

    def __init__(self, courier: Courier, recorder: Recorder, rules: Rules) -> None:
        self._courier = courier
        self._recorder = recorder
        self._rules = rules

    async def claim(self, limit: int) -> list[Coroutine[Any, Any, None]]:
        """Take what is due, and return the deliveries that are to be started: up to ``limit``."""
        due = await threads.run(
            operations.claim_clears, provider=self._courier.name, limit=limit, lease_seconds=LEASE_SECONDS
        )
        settled = [(one, self._settled(one)) for one in due]
        await self._recorder.record_clears([result for _, result in settled if result])
        wanted = [one for one, result in settled if not result]
        if not wanted:
            return []
        badges = await threads.run(queries.unread_conversations, {one.user_id for one in wanted})
        return [self._deliver(one, badges.get(one.user_id, 0)) for one in wanted]

    def _settled(self, due: DueClear) -> ClearResult | None:
        provider = due.device_provider or self._rules.default_provider
        reason = reason_to_drop_clear(due)
        if reason is None and provider not in self._rules.providers:
            reason = "provider_not_configured"
        if reason is None and due.attempts > MAX_ATTEMPTS:
            reason = "too_many_attempts"
        if reason is not None:
            self._courier.metrics.dropped(reason)
            return ClearResult(due=due, state=State.DROPPED, reason=reason)
        return None if provider == due.provider else ClearResult(due=due, state=State.PENDING, provider=provider)

    async def _deliver(self, due: DueClear, badge: int) -> None:
        push = render_clear(
            due, badge=badge, ttl_seconds=int(CLEAR_LIFE.total_seconds()), expires_at=due.now + CLEAR_LIFE
        )
        outcome = await self._courier.attempt(push)
        state, delay = self._courier.follows(outcome, due.attempts)
        self._courier.tell(push, due.device_id, state, due.attempts, outcome)
        gone = due.target if outcome.verdict is Verdict.TARGET_GONE else None
        result = ClearResult(
            due=due, state=state, reason=outcome.code, delay_seconds=delay, gone_target=gone, gone_at=outcome.gone_at
        )
        await self._recorder.record_clears([result])
