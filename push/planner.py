"""
From one outbox row per message to one cursor per device and conversation.

Only decides who may have to be woken and when; whether a push is still wanted is asked when it is due. Run by the
worker.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError

from models import limits, threads
from models.deliveries import CALL_SUBJECT, DueNotification, Occasion, Planned, Recipient
from models.errors import Unavailable
from models.operations import notifications as operations
from models.queries import notifications as queries

from .metrics import Metrics

log = structlog.get_logger("push")

# Asked with many device ids at once: which of them have a live socket somewhere? None: nobody can know.
Answer = Collection[UUID] | None
Connected = Callable[[Sequence[UUID]], Answer | Awaitable[Answer]]

# Several planners share a busy outbox in slices of this size.
NOTIFICATIONS_PER_CLAIM = 200
# How many members are read, and their deliveries stored, at once: bounds memory and the length of a transaction.
MEMBERS_PER_PAGE = 2_000
# A page takes well below a second; a planner that is silent for so long is dead.
LEASE_SECONDS = 60.0
# Whoever answers "who is connected?" later than this does not know.
CONNECTED_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When pushes are due and how long they live; the settings of the planner."""

    default_provider: str
    grace_seconds: float
    active_elsewhere_seconds: float
    ttl_seconds: float


class Planner:
    """Fans out the messages that are due to the cursors of devices."""

    def __init__(self, schedule: Schedule, connected: Connected, metrics: Metrics | None = None) -> None:
        self._schedule = schedule
        self._connected = connected
        self._metrics = metrics or Metrics()

    async def plan_due(self) -> int:
        """Plan what is in the outbox, up to one claim; return how many messages that were."""
        claimed = await threads.run(
            operations.claim_notifications,
            limit=NOTIFICATIONS_PER_CLAIM,
            lease_seconds=LEASE_SECONDS,
            count_members_to=MEMBERS_PER_PAGE,
        )
        for group in _groups(claimed):
            try:
                await self._plan(group)
            except (OperationalError, InterfaceError, Unavailable):
                raise
            except Exception:
                # It comes back when its lease ends; the groups after it must not wait for that.
                log.exception("push.not_planned", notifications=[str(notification.id) for notification in group])
        return len(claimed)

    async def _plan(self, group: Sequence[DueNotification]) -> None:
        ids = [notification.id for notification in group]
        if group[0].occasion is Occasion.REVISED:
            await threads.run(operations.revise, ids)
        else:
            await self._plan_members(group, ids)
        await threads.run(operations.finish_plan, ids)
        self._metrics.messages_planned(len(ids))

    async def _plan_members(self, group: Sequence[DueNotification], ids: Sequence[UUID]) -> None:
        after: UUID | None = queries.FIRST
        while after is not None:
            recipients = await threads.run(queries.recipients, ids, after=after, page=MEMBERS_PER_PAGE)
            connected = await self._who_is_connected({recipient.device_id for recipient in recipients})
            planned = self._planned(group, recipients, connected)
            await threads.run(operations.plan, planned)
            self._metrics.planned(len(planned))
            after = await self._next_page(group, after)

    def _planned(
        self, group: Sequence[DueNotification], recipients: Sequence[Recipient], connected: Collection[UUID]
    ) -> list[Planned]:
        """One for each device and conversation; several messages of one conversation are one."""
        notifications = {notification.id: notification for notification in group}
        active = _active_devices(recipients, connected)
        planned: dict[tuple[UUID, UUID, str], Planned] = {}
        for recipient in recipients:
            if recipient.has_target:
                delay = self._delay(recipient, connected, active)
                row = self._row(notifications[recipient.notification_id], recipient, delay)
                key = (row.device_id, row.conversation_id, row.subject)
                planned[key] = _merged(planned[key], row) if key in planned else row
        return list(planned.values())

    def _row(self, notification: DueNotification, recipient: Recipient, delay: timedelta) -> Planned:
        is_call = notification.occasion is Occasion.CALL
        life = limits.CALL_SECONDS if is_call else self._schedule.ttl_seconds
        return Planned(
            device_id=recipient.device_id,
            conversation_id=recipient.conversation_id,
            user_id=recipient.user_id,
            provider=recipient.provider or self._schedule.default_provider,
            first_seq=1 if is_call else recipient.seq,
            seq=1 if is_call else recipient.seq,
            # A phone rings at once, or not at all.
            not_before=notification.created_at + (timedelta() if is_call else delay),
            expires_at=notification.created_at + timedelta(seconds=life),
            subject=f"{CALL_SUBJECT}{notification.id}" if is_call else "",
            payload=notification.payload,
        )

    def _delay(self, recipient: Recipient, connected: Collection[UUID], active: Mapping[UUID, set[UUID]]) -> timedelta:
        """How long this device may be spared: it hears of the message by itself, or its user reads it elsewhere."""
        if recipient.device_id in connected:
            return timedelta(seconds=self._schedule.grace_seconds)
        if active[recipient.user_id] - {recipient.device_id}:
            return timedelta(seconds=self._schedule.active_elsewhere_seconds)
        return timedelta()

    async def _next_page(self, group: Sequence[DueNotification], after: UUID) -> UUID | None:
        if len(group) > 1:
            # Together they have fewer members than one page; see _groups.
            return None
        lone = group[0]
        last = await threads.run(queries.end_of_page, lone.conversation_id, after=after, page=MEMBERS_PER_PAGE)
        if last is not None:
            await threads.run(operations.renew_plan, [lone.id], lease_seconds=LEASE_SECONDS)
        return last

    async def _who_is_connected(self, device_ids: set[UUID]) -> Collection[UUID]:
        """Those with a live socket; everybody if that is unknown, so that pushes wait instead of storming."""
        try:
            answer = self._connected(list(device_ids))
            if inspect.isawaitable(answer):
                async with asyncio.timeout(CONNECTED_SECONDS):
                    answer = await answer
        except Exception as error:
            log.warning("push.connected_unknown", error=type(error).__name__)
            answer = None
        return device_ids if answer is None else frozenset(answer)


def _active_devices(recipients: Sequence[Recipient], connected: Collection[UUID]) -> dict[UUID, set[UUID]]:
    """Each user's devices that are in use."""
    active: dict[UUID, set[UUID]] = {recipient.user_id: set() for recipient in recipients}
    for recipient in recipients:
        if recipient.was_just_seen or recipient.device_id in connected:
            active[recipient.user_id].add(recipient.device_id)
    return active


def _merged(one: Planned, other: Planned) -> Planned:
    return replace(
        one,
        first_seq=min(one.first_seq, other.first_seq),
        seq=max(one.seq, other.seq),
        not_before=min(one.not_before, other.not_before),
        expires_at=max(one.expires_at, other.expires_at),
    )


def _groups(notifications: Sequence[DueNotification]) -> Iterator[list[DueNotification]]:
    """
    Small conversations are planned together, up to one page of members; a large one alone, page by page. What has
    another occasion is planned apart.
    """
    group: list[DueNotification] = []
    members = 0
    for notification in notifications:
        is_full = members + notification.member_count >= MEMBERS_PER_PAGE
        if group and (is_full or notification.occasion is not group[0].occasion):
            yield group
            group, members = [], 0
        group.append(notification)
        members += notification.member_count
    if group:
        yield group
