"""
From one outbox row per message to one delivery per device.

Only decides who may have to be woken and when; whether a push is still wanted is asked when it is due. Run by the
worker.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError

from models import threads
from models.deliveries import DueNotification, NewDelivery, Recipient
from models.errors import Unavailable
from models.ids import new_id
from models.operations import notifications as operations
from models.queries import notifications as queries

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
    """Fans out the messages that are due into deliveries."""

    def __init__(self, schedule: Schedule, connected: Connected) -> None:
        self._schedule = schedule
        self._connected = connected

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
        after: UUID | None = queries.FIRST
        while after is not None:
            recipients = await threads.run(queries.recipients, ids, after=after, page=MEMBERS_PER_PAGE)
            connected = await self._who_is_connected({recipient.device_id for recipient in recipients})
            await threads.run(operations.add_deliveries, self._deliveries(group, recipients, connected))
            after = await self._next_page(group, after)
        await threads.run(operations.finish_plan, ids)

    def _deliveries(
        self, group: Sequence[DueNotification], recipients: Sequence[Recipient], connected: Collection[UUID]
    ) -> list[NewDelivery]:
        sent_at = {notification.id: notification.created_at for notification in group}
        ttl = timedelta(seconds=self._schedule.ttl_seconds)
        active = _active_devices(recipients, connected)
        return [
            NewDelivery(
                id=new_id(),
                recipient=recipient,
                provider=recipient.provider or self._schedule.default_provider,
                not_before=sent_at[recipient.notification_id] + self._delay(recipient, connected, active),
                expires_at=sent_at[recipient.notification_id] + ttl,
            )
            for recipient in recipients
            if recipient.has_target
        ]

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


def _groups(notifications: Sequence[DueNotification]) -> Iterator[list[DueNotification]]:
    """Small conversations are planned together, up to one page of members; a large one alone, page by page."""
    group: list[DueNotification] = []
    members = 0
    for notification in notifications:
        if group and members + notification.member_count >= MEMBERS_PER_PAGE:
            yield group
            group, members = [], 0
        group.append(notification)
        members += notification.member_count
    if group:
        yield group
