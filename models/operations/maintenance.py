"""
Removes what nobody will ask for again; the worker calls these every few minutes.

Each deletes in slices, so that no transaction is long, and skips what another worker is deleting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from ..device import Device

# A batch row answers "was my commit stored?", which is asked within seconds of a broken connection.
KEEP_WRITER_BATCHES = timedelta(hours=1)
# Long enough to look into a complaint of the last days.
KEEP_FINISHED_DELIVERIES = timedelta(days=3)
# What a provider refused for good is our mistake, and somebody should have time to look at it.
KEEP_DEAD_DELIVERIES = timedelta(days=14)
# The list of log-ins shows that one has expired before it disappears.
KEEP_EXPIRED_SESSIONS = timedelta(days=7)

_SLICE = 5_000
# Each brings its receipts and cursors along.
_DEVICES_SLICE = 500

_DELETE = """
DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table} WHERE {condition} LIMIT {slice} FOR UPDATE SKIP LOCKED
)
"""

_DELETE_PUBLICATIONS = """
DELETE FROM messaging_publication WHERE (stream_id, "offset") IN (
    SELECT stream_id, "offset" FROM messaging_publication WHERE created_at < %s LIMIT %s FOR UPDATE SKIP LOCKED
)
"""

# What nobody can send, for instance because its provider is not configured any more.
_EXPIRED = """
SELECT id, subject, push_id, device_id, user_id, conversation_id, first_seq, pending_seq, provider
FROM messaging_pushcursor
WHERE not_before IS NOT NULL AND expires_at < now() AND (leased_until IS NULL OR leased_until < now())
LIMIT %s FOR UPDATE SKIP LOCKED
"""
_EXPIRE_PUSHES = f"""
WITH expired AS ({_EXPIRED}), ended AS (
    UPDATE messaging_pushcursor c SET
        not_before = NULL, pending_seq = 0, first_seq = 0, revised_at = NULL, push_id = NULL, attempts = 0,
        is_deferred = false, leased_until = NULL
    FROM expired e WHERE c.id = e.id AND e.subject = ''
), deleted AS (
    DELETE FROM messaging_pushcursor c USING expired e WHERE c.id = e.id AND e.subject <> ''
)
INSERT INTO messaging_delivery AS d
    (id, push_id, device_id, user_id, conversation_id, kind, first_seq, seq, provider, state, reason, answer, attempts,
     tries, created_at, finished_at)
SELECT gen_random_uuid(), coalesce(e.push_id, gen_random_uuid()), e.device_id, e.user_id, e.conversation_id,
    CASE WHEN e.subject LIKE 'call:%%' THEN 'call' WHEN e.subject LIKE 'test:%%' THEN 'test' ELSE 'alert' END,
    e.first_seq, e.pending_seq, e.provider, 'dropped', 'expired', '', 0, '[]', now(), now()
FROM expired e
ON CONFLICT (push_id, conversation_id) DO UPDATE SET state = 'dropped', reason = 'expired', finished_at = now()
"""

# A phone whose log-in has expired is logged out: nothing may be written on its screen any more.
_SILENCE_EXPIRED_SESSIONS = """
UPDATE messaging_device SET target = '', voip_target = '', target_updated_at = NULL
WHERE id IN (
    SELECT d.id FROM messaging_device d JOIN messaging_session s ON s.device_id = d.id
    WHERE d.target <> '' AND s.expires_at < now()
    LIMIT %s FOR UPDATE OF d SKIP LOCKED
)
"""


def jobs() -> dict[str, Callable[[], int]]:
    """All jobs by name; each returns how many rows it touched."""
    return {
        "expired_pushes": expire_pushes,
        "expired_session_targets": silence_expired_sessions,
        "stale_devices": remove_stale_devices,
        "deliveries": prune_deliveries,
        "notifications": prune_notifications,
        "publications": prune_publications,
        "sessions": prune_sessions,
        "writer_batches": prune_writer_batches,
    }


def expire_pushes() -> int:
    """Drop pushes that nobody can send any more, for instance because their provider is not configured."""
    return _in_slices(_EXPIRE_PUSHES, [_SLICE])


def remove_stale_devices() -> int:
    """Remove devices that were not seen for long, with all that is known of them."""
    oldest = timezone.now() - timedelta(days=settings.ROOST.push_forget_days)
    total = 0
    while True:
        with transaction.atomic():
            stale = Device.objects.filter(last_seen_at__lt=oldest).select_for_update(skip_locked=True)
            ids = list(stale.values_list("id", flat=True)[:_DEVICES_SLICE])
            Device.objects.filter(id__in=ids).delete()
        total += len(ids)
        if len(ids) < _DEVICES_SLICE:
            return total


def silence_expired_sessions() -> int:
    """Forget the push targets of devices whose session has expired."""
    return _in_slices(_SILENCE_EXPIRED_SESSIONS, [_SLICE])


def prune_deliveries() -> int:
    """Delete the record of what was sent or dropped some days ago, and, later, of what was refused or never ended."""
    condition = "created_at < %s AND (state IN ('sent', 'dropped') OR created_at < %s)"
    return _delete("messaging_delivery", condition, KEEP_FINISHED_DELIVERIES, KEEP_DEAD_DELIVERIES)


def prune_notifications() -> int:
    """Delete messages that were planned some days ago."""
    return _delete("messaging_notification", "planned_at IS NOT NULL AND created_at < %s", KEEP_FINISHED_DELIVERIES)


def prune_publications() -> int:
    """
    Delete what is older than recovery and sync reach. Messages stay, and so does each stream's top: whoever is up to
    date stays so, and whoever missed what is gone is told that it cannot be recovered.
    """
    oldest = timezone.now() - timedelta(days=settings.ROOST.retention_days)
    return _in_slices(_DELETE_PUBLICATIONS, [oldest, _SLICE])


def prune_sessions() -> int:
    """Delete sessions that expired some time ago."""
    return _delete("messaging_session", "expires_at < %s", KEEP_EXPIRED_SESSIONS)


def prune_writer_batches() -> int:
    """Delete the marks of batches whose outcome nobody asks for any more."""
    return _delete("messaging_writerbatch", "created_at < %s", KEEP_WRITER_BATCHES)


def _delete(table: str, condition: str, *ages: timedelta) -> int:
    statement = _DELETE.format(table=table, condition=condition, slice=_SLICE)
    return _in_slices(statement, [timezone.now() - age for age in ages])


def _in_slices(statement: str, values: Sequence[int | datetime]) -> int:
    total = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            count: int = cursor.rowcount
        total += count
        if count < _SLICE:
            return total
