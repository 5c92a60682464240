"""
Writes of the push outbox: claim, plan, record, prune.

What is claimed carries a lease; whoever dies leaves it to the others when the lease ends. Several workers claim at
once, each skipping the rows that another one holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from ..deliveries import DueDelivery, DueNotification, NewDelivery, Result, State
from ..device import Device
from ..queries import notifications as queries

Columns = list[list[Any]]

_CLAIM_NOTIFICATIONS = """
UPDATE messaging_notification n SET leased_until = now() + make_interval(secs => %(lease)s)
FROM (
    SELECT id FROM messaging_notification
    WHERE planned_at IS NULL AND (leased_until IS NULL OR leased_until < now())
    ORDER BY created_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) due
WHERE n.id = due.id
RETURNING n.id, n.conversation_id, n.created_at,
    (SELECT count(*) FROM (
        SELECT FROM messaging_member m WHERE m.conversation_id = n.conversation_id LIMIT %(count_to)s
    ) members)
"""

_INSERT_DELIVERIES = """
INSERT INTO messaging_delivery
    (id, notification_id, device_id, user_id, provider, not_before, expires_at, state, reason, attempts)
SELECT *, 'pending', '', 0
FROM unnest(
    %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::timestamptz[], %s::timestamptz[]
)
ON CONFLICT DO NOTHING
"""

# The attempt is counted here, so that one which ends with the process is counted too.
_CLAIM_DELIVERIES = """
UPDATE messaging_delivery v SET leased_until = now() + make_interval(secs => %(lease)s), attempts = attempts + 1
FROM (
    SELECT id FROM messaging_delivery
    WHERE state = 'pending' AND provider = %(provider)s AND not_before <= now()
        AND (leased_until IS NULL OR leased_until < now())
    ORDER BY not_before LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) due
WHERE v.id = due.id
RETURNING v.id
"""

# What has been tried waits for the provider, and not for the device. Locked in the order that recording keeps.
_HASTEN = """
UPDATE messaging_delivery v SET not_before = now()
FROM (
    SELECT id FROM messaging_delivery
    WHERE device_id = ANY(%s) AND state = 'pending' AND attempts = 0 AND not_before > now()
    ORDER BY id FOR UPDATE
) waiting
WHERE v.id = waiting.id
"""

# Rows are locked in one order, so that two workers that record the same ones (a lease ran out) never deadlock. What is
# final is recorded whoever holds the claim now; only putting back is for the holder.
_RECORD = """
WITH result AS (
    SELECT * FROM unnest(
        %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::float8[], %s::int[], %s::text[]
    ) AS r (id, lease, state, reason, delay, uncounted, provider)
), locked AS (
    SELECT v.id FROM messaging_delivery v JOIN result USING (id) WHERE v.state = 'pending' ORDER BY v.id FOR UPDATE OF v
)
UPDATE messaging_delivery v SET
    state = r.state,
    reason = left(r.reason, 60),
    attempts = v.attempts - r.uncounted,
    provider = coalesce(r.provider, v.provider),
    not_before = CASE
        WHEN r.state = 'pending' THEN least(now() + make_interval(secs => r.delay), v.expires_at) ELSE v.not_before
    END,
    leased_until = NULL,
    finished_at = CASE WHEN r.state <> 'pending' THEN now() END
FROM result r JOIN locked USING (id)
WHERE v.id = r.id AND (r.state <> 'pending' OR v.leased_until = r.lease)
"""


def claim_notifications(*, limit: int, lease_seconds: float, count_members_to: int) -> list[DueNotification]:
    """Take up to ``limit`` messages that nobody has planned, oldest first. Members are counted up to a bound."""
    values = {"limit": limit, "lease": lease_seconds, "count_to": count_members_to}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM_NOTIFICATIONS, values)
        return [DueNotification(*row) for row in cursor.fetchall()]


def add_deliveries(deliveries: Sequence[NewDelivery]) -> None:
    """Store deliveries; a device that already has one for the same message keeps it."""
    if not deliveries:
        return
    columns: Columns = [
        [delivery.id for delivery in deliveries],
        [delivery.recipient.notification_id for delivery in deliveries],
        [delivery.recipient.device_id for delivery in deliveries],
        [delivery.recipient.user_id for delivery in deliveries],
        [delivery.provider for delivery in deliveries],
        [delivery.not_before for delivery in deliveries],
        [delivery.expires_at for delivery in deliveries],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT_DELIVERIES, columns)


def renew_plan(notification_ids: Sequence[UUID], *, lease_seconds: float) -> None:
    """Keep notifications whose many recipients are still being planned."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE messaging_notification SET leased_until = now() + make_interval(secs => %s) WHERE id = ANY(%s)",
            [lease_seconds, list(notification_ids)],
        )


def finish_plan(notification_ids: Sequence[UUID]) -> None:
    """Mark notifications as planned; all their deliveries are stored."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE messaging_notification SET planned_at = now(), leased_until = NULL WHERE id = ANY(%s)",
            [list(notification_ids)],
        )


def hasten(device_ids: Sequence[UUID]) -> int:
    """Make due what waits for these devices to acknowledge it, or for their user to read it; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(_HASTEN, [list(device_ids)])
        count: int = cursor.rowcount
    return count


def claim_deliveries(*, provider: str, limit: int, lease_seconds: float) -> list[DueDelivery]:
    """Take up to ``limit`` deliveries that are due at this provider, with what decides about them."""
    with connection.cursor() as cursor:
        cursor.execute(
            _CLAIM_DELIVERIES,
            {"provider": provider, "limit": limit, "lease": lease_seconds},
        )
        claimed = [row[0] for row in cursor.fetchall()]
    # A statement of its own, because its snapshot must be younger than the claim.
    return queries.due_deliveries(claimed) if claimed else []


@transaction.atomic
def record_results(results: Sequence[Result]) -> None:
    """
    Store what became of claimed deliveries, and forget the targets that are gone.

    A target is forgotten only if it is still the one that was sent to. A device that has another one by now has not
    been reached: its delivery becomes due again.
    """
    settled = [_try_the_new_target(result) if result.gone_target else result for result in _in_order(results)]
    columns: Columns = [
        [result.delivery.id for result in settled],
        [result.delivery.leased_until for result in settled],
        [result.state.value for result in settled],
        [result.reason for result in settled],
        [result.delay_seconds for result in settled],
        [0 if result.counts else 1 for result in settled],
        [result.provider for result in settled],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, columns)


def _in_order(results: Sequence[Result]) -> list[Result]:
    # Devices are locked one after the other, in the same order by every worker.
    return sorted(results, key=lambda result: result.delivery.device_id)


def _try_the_new_target(result: Result) -> Result:
    device = Device.objects.filter(id=result.delivery.device_id)
    sent_to = device.filter(target=result.gone_target)
    if result.gone_at and sent_to.filter(target_updated_at__gt=result.gone_at).exists():
        # The app has registered the same target again since: it is in use, whatever the provider knew before.
        return replace(result, state=State.PENDING, gone_target=None)
    if sent_to.update(target="", target_updated_at=None):
        return result
    return replace(result, state=State.PENDING, delay_seconds=0.0, gone_target=None)
