"""
Figures about pushes, for whoever watches the service: what waits, and what apps have reported back.

Asked again and again, so each costs no more on a table of millions of rows than on a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import connection

# A queue of so many is long, whatever its length.
MAX_COUNTED = 10_000
# So many blocks of 8 KB are read of the deliveries, spread over the table; the numbers are raised accordingly.
MAX_BLOCKS = 4_096

_FREE = "(c.leased_until IS NULL OR c.leased_until < now())"
_QUEUES = f"""
SELECT p.name,
    (SELECT count(*) FROM (
        SELECT FROM messaging_pushcursor c WHERE c.provider = p.name AND c.not_before <= now() AND {_FREE}
        LIMIT %(most)s
    ) due),
    (SELECT count(*) FROM (
        SELECT FROM messaging_pushcursor c WHERE c.provider = p.name AND c.not_before > now() LIMIT %(most)s
    ) later),
    coalesce(extract(epoch FROM now() - (
        SELECT c.not_before FROM messaging_pushcursor c
        WHERE c.provider = p.name AND c.not_before <= now() AND {_FREE} ORDER BY c.not_before LIMIT 1
    )), 0)::float8
FROM unnest(%(providers)s::text[]) p (name)
"""

_OUTBOX = """
SELECT
    (SELECT count(*) FROM (SELECT FROM messaging_notification WHERE planned_at IS NULL LIMIT %(most)s) unplanned),
    coalesce(extract(epoch FROM now() - (
        SELECT created_at FROM messaging_notification WHERE planned_at IS NULL ORDER BY created_at LIMIT 1
    )), 0)::float8
"""

# What is reported before our own commit seems to have arrived before it was sent.
_MEDIANS = ", ".join(
    f"percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM greatest(interval '0', {what}_at - at)))"
    f" FILTER (WHERE {what}_at IS NOT NULL)"
    for what in ("received", "displayed", "opened")
)
# Rows are stored in the order of time, so whole blocks are a fair sample of each hour.
_RECEIPTS = f"""
WITH share AS (
    SELECT least(1.0, %(blocks)s / greatest(1.0, pg_relation_size('messaging_delivery') / 8192.0)) AS size
), delivery AS (
    SELECT d.device_id, d.received_at, d.displayed_at, d.opened_at, coalesce(d.finished_at, d.created_at) AS at
    FROM messaging_delivery d TABLESAMPLE SYSTEM ((SELECT 100 * size FROM share))
    WHERE d.created_at > now() - interval '1 day' AND d.state = 'sent'
)
SELECT coalesce(device.platform, 'gone') AS platform,
    round(count(*) / min(share.size)),
    round(count(delivery.received_at) / min(share.size)),
    round(count(delivery.displayed_at) / min(share.size)),
    round(count(delivery.opened_at) / min(share.size)),
    {_MEDIANS}
FROM delivery CROSS JOIN share LEFT JOIN messaging_device device ON device.id = delivery.device_id
GROUP BY 1 ORDER BY 1
"""


class Queue(NamedTuple):
    """What is due, what waits for its time (both counted up to a bound), and for how long the oldest has been due."""

    due: int
    later: int
    oldest_seconds: float


class Outbox(NamedTuple):
    """Messages that nobody has planned yet, and how old the oldest is."""

    waiting: int
    oldest_seconds: float


class Receipts(NamedTuple):
    """
    What the apps of one platform have reported about the pushes of the last day.

    The times are medians in seconds from the provider's answer on; None where nothing was reported.
    """

    platform: str
    sent: int
    received: int
    displayed: int
    opened: int
    received_seconds: float | None
    displayed_seconds: float | None
    opened_seconds: float | None

    @property
    def received_ratio(self) -> float:
        return self.received / self.sent

    @property
    def displayed_ratio(self) -> float:
        return self.displayed / self.sent

    @property
    def opened_ratio(self) -> float:
        return self.opened / self.sent


def queues(providers: Sequence[str]) -> dict[str, Queue]:
    """What waits for each of these providers."""
    with connection.cursor() as cursor:
        cursor.execute(_QUEUES, {"providers": list(providers), "most": MAX_COUNTED})
        return {name: Queue(*figures) for name, *figures in cursor.fetchall()}


def outbox() -> Outbox:
    """What waits for a planner."""
    with connection.cursor() as cursor:
        cursor.execute(_OUTBOX, {"most": MAX_COUNTED})
        return Outbox(*cursor.fetchone())


def receipts() -> list[Receipts]:
    """What apps have reported about the pushes of the last day, by platform."""
    with connection.cursor() as cursor:
        cursor.execute(_RECEIPTS, {"blocks": MAX_BLOCKS})
        return [
            Receipts(platform, *(int(count) for count in rest[:4]), *rest[4:]) for platform, *rest in cursor.fetchall()
        ]
