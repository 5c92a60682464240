"""
Writes of the push outbox: claim, plan, record.

What is claimed carries a lease; whoever dies leaves it to the others when the lease ends. Several workers claim at
once, each skipping the rows that another one holds. Whatever touches several cursors locks them by their ids' order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection, transaction

from .. import screens
from ..deliveries import ClearResult, DueClear, DueNotification, DuePush, Kind, Occasion, Planned, Result, State
from ..device import Device
from ..ids import new_id
from ..queries import notifications as queries
from ..screens import PACE_SECONDS

Columns = list[list[Any]]
AnyResult = TypeVar("AnyResult", Result, ClearResult)

# What is kept of the tries of one push.
MAX_TRIES = 20

_CLAIM_NOTIFICATIONS = """
UPDATE messaging_notification n SET leased_until = now() + make_interval(secs => %(lease)s)
FROM (
    SELECT id FROM messaging_notification
    WHERE planned_at IS NULL AND (leased_until IS NULL OR leased_until < now())
    ORDER BY created_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) due
WHERE n.id = due.id
RETURNING n.id, n.occasion, n.conversation_id, n.created_at, n.payload::text,
    (SELECT count(*) FROM (
        SELECT FROM messaging_member m WHERE m.conversation_id = n.conversation_id LIMIT %(count_to)s
    ) members)
"""

# What was planned before, or has been sent since, changes nothing. A push that is being tried keeps its time: the
# provider has asked for it.
_PLAN = f"""
INSERT INTO messaging_pushcursor AS c
    (id, device_id, conversation_id, subject, user_id, provider, first_seq, pending_seq, not_before, expires_at,
     payload, is_deferred, sent_seq, shown_seq, must_clear, attempts)
SELECT gen_random_uuid(), p.*, false, 0, 0, false, 0
FROM unnest(
    %s::uuid[], %s::uuid[], %s::text[], %s::uuid[], %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[],
    %s::timestamptz[], %s::jsonb[]
) AS p (device_id, conversation_id, subject, user_id, provider, first_seq, seq, not_before, expires_at, payload)
ORDER BY p.device_id, p.conversation_id, p.subject
ON CONFLICT (device_id, conversation_id, subject) DO UPDATE SET
    user_id = excluded.user_id,
    provider = CASE WHEN c.pending_seq = 0 THEN excluded.provider ELSE c.provider END,
    first_seq = CASE WHEN c.pending_seq = 0 THEN excluded.first_seq ELSE least(c.first_seq, excluded.first_seq) END,
    pending_seq = excluded.pending_seq,
    expires_at = excluded.expires_at,
    attempts = CASE WHEN c.pending_seq = 0 THEN 0 ELSE c.attempts END,
    not_before = CASE
        WHEN c.pending_seq > 0 AND (c.attempts > 0 OR c.is_deferred) THEN c.not_before
        WHEN c.pending_seq > 0 THEN least(c.not_before, excluded.not_before)
        ELSE greatest(excluded.not_before, c.sent_at + interval '{PACE_SECONDS} seconds')
    END
WHERE excluded.pending_seq > greatest(c.pending_seq, c.sent_seq)
"""

# An edited message is shown anew where it is on the screen, and not read yet.
_REVISE = f"""
UPDATE messaging_pushcursor c SET
    revised_at = now(),
    attempts = CASE WHEN c.not_before IS NULL THEN 0 ELSE c.attempts END,
    expires_at = coalesce(greatest(c.expires_at, now() + interval '1 hour'), now() + interval '1 hour'),
    not_before = coalesce(c.not_before, greatest(now(), c.sent_at + interval '{PACE_SECONDS} seconds'))
FROM (
    SELECT c.id FROM messaging_pushcursor c
    JOIN messaging_notification n ON n.id = ANY(%s) AND n.conversation_id = c.conversation_id
    JOIN messaging_member m ON m.conversation_id = c.conversation_id AND m.user_id = c.user_id
    WHERE c.shown_seq >= n.seq AND n.seq > m.read_seq AND c.subject = ''
    ORDER BY c.id FOR UPDATE OF c
) shown
WHERE c.id = shown.id
"""

# The attempt is counted here, so that one which ends with the process is counted too.
_CLAIM = """
UPDATE messaging_pushcursor c SET
    leased_until = now() + make_interval(secs => %(lease)s),
    attempts = attempts + 1,
    push_id = coalesce(push_id, gen_random_uuid())
FROM (
    SELECT id FROM messaging_pushcursor
    WHERE provider = %(provider)s AND not_before <= now() AND (leased_until IS NULL OR leased_until < now())
    ORDER BY not_before, device_id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) due
WHERE c.id = due.id
RETURNING c.id
"""

_CLAIM_CLEARS = """
UPDATE messaging_pushclear k SET
    leased_until = now() + make_interval(secs => %(lease)s),
    attempts = attempts + 1,
    push_id = coalesce(push_id, gen_random_uuid())
FROM (
    SELECT device_id FROM messaging_pushclear
    WHERE provider = %(provider)s AND not_before <= now() AND (leased_until IS NULL OR leased_until < now())
    ORDER BY not_before LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) due
WHERE k.device_id = due.device_id
RETURNING k.device_id
"""

# What has been tried waits for the provider, and not for the device; what is deferred waits for the morning.
_HASTEN = f"""
UPDATE messaging_pushcursor c SET
    not_before = greatest(now(), c.sent_at + interval '{PACE_SECONDS} seconds')
FROM (
    SELECT id FROM messaging_pushcursor
    WHERE device_id = ANY(%s) AND attempts = 0 AND NOT is_deferred AND not_before > now()
    ORDER BY id FOR UPDATE
) waiting
WHERE c.id = waiting.id
"""

# What is final is recorded whoever holds the claim now; only putting back is for the holder, and who lost the claim
# leaves what came later to the one who has it. What came after the claim (newer messages, another edit) is still to be
# sent: it is told by what ``locked`` returns, which is the row as it is now. The statement's snapshot is older than the
# lock that it may have waited for.
_RECORD = f"""
WITH result AS (
    SELECT * FROM unnest(
        %s::uuid[], %s::timestamptz[], %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::float8[],
        %s::bool[], %s::int[], %s::text[], %s::bool[]
    ) AS r (id, lease, state, pending, seq, revised_at, delay, defers, uncounted, provider, is_off)
), locked AS (
    SELECT c.id, c.pending_seq, c.leased_until, c.revised_at
    FROM messaging_pushcursor c JOIN result USING (id) ORDER BY c.id FOR UPDATE OF c
), done AS (
    SELECT r.*, c.pending_seq > greatest(r.pending, r.seq) AS has_more,
        c.pending_seq > greatest(r.pending, r.seq) AND c.leased_until <> r.lease AS is_anothers,
        c.revised_at IS DISTINCT FROM r.revised_at AS is_revised_since
    FROM result r JOIN locked c USING (id) WHERE r.state <> 'pending'
)
UPDATE messaging_pushcursor c SET
    pending_seq = CASE WHEN d.id IS NULL OR d.has_more THEN c.pending_seq ELSE 0 END,
    first_seq = CASE WHEN d.id IS NULL THEN c.first_seq WHEN d.has_more THEN greatest(r.pending, r.seq) + 1 ELSE 0 END,
    revised_at = CASE WHEN d.id IS NULL OR d.is_revised_since THEN c.revised_at END,
    push_id = CASE WHEN d.id IS NULL OR d.is_anothers THEN c.push_id END,
    sent_seq = CASE WHEN r.state = 'sent' THEN greatest(c.sent_seq, r.seq) ELSE c.sent_seq END,
    shown_seq = CASE WHEN r.is_off THEN 0 WHEN r.state = 'sent' THEN greatest(c.shown_seq, r.seq) ELSE c.shown_seq END,
    cleared_at = CASE WHEN r.is_off THEN now() WHEN r.state = 'sent' THEN NULL ELSE c.cleared_at END,
    must_clear = c.must_clear OR r.is_off,
    sent_at = CASE WHEN r.state = 'sent' THEN now() ELSE c.sent_at END,
    is_deferred = CASE WHEN d.id IS NULL THEN r.defers ELSE false END,
    attempts = CASE WHEN d.id IS NULL THEN c.attempts - r.uncounted WHEN d.is_anothers THEN c.attempts ELSE 0 END,
    provider = coalesce(r.provider, c.provider),
    payload = CASE WHEN d.id IS NULL THEN c.payload END,
    not_before = CASE
        WHEN d.id IS NULL THEN least(now() + make_interval(secs => r.delay), greatest(c.expires_at, now()))
        WHEN d.is_anothers THEN c.not_before
        WHEN d.has_more OR d.is_revised_since THEN now() + interval '{PACE_SECONDS} seconds'
    END,
    leased_until = CASE WHEN d.is_anothers THEN c.leased_until END
FROM result r JOIN locked USING (id) LEFT JOIN done d USING (id)
WHERE c.id = r.id AND (r.state <> 'pending' OR c.leased_until = r.lease)
"""

_LOG = f"""
INSERT INTO messaging_delivery AS d
    (id, push_id, device_id, user_id, conversation_id, kind, first_seq, seq, provider, state, reason, answer, attempts,
     tries, created_at, finished_at)
SELECT r.id, r.push_id, r.device_id, r.user_id, r.conversation_id, r.kind, r.first_seq, r.seq, r.provider,
    r.state, left(r.reason, 60), left(r.answer, 500), r.attempts, coalesce(r.try, '[]'), now(),
    CASE WHEN r.state <> 'pending' THEN now() END
FROM unnest(
    %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::bigint[], %s::bigint[], %s::text[],
    %s::text[], %s::text[], %s::text[], %s::int[], %s::jsonb[]
) AS r (id, push_id, device_id, user_id, conversation_id, kind, first_seq, seq, provider, state, reason, answer,
    attempts, try)
ORDER BY r.push_id, r.conversation_id
ON CONFLICT (push_id, conversation_id) DO UPDATE SET
    kind = excluded.kind, first_seq = least(d.first_seq, excluded.first_seq), seq = greatest(d.seq, excluded.seq),
    provider = excluded.provider, state = excluded.state, reason = excluded.reason, answer = excluded.answer,
    attempts = excluded.attempts, finished_at = excluded.finished_at,
    tries = CASE WHEN jsonb_array_length(d.tries) < {MAX_TRIES} THEN d.tries || excluded.tries ELSE d.tries END
"""

_RECORD_CLEARS = """
WITH result AS (
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::float8[], %s::text[])
    AS r (device_id, lease, state, delay, provider)
), locked AS (
    SELECT k.device_id FROM messaging_pushclear k JOIN result USING (device_id) ORDER BY k.device_id FOR UPDATE OF k
)
UPDATE messaging_pushclear k SET
    not_before = CASE WHEN r.state = 'pending' THEN now() + make_interval(secs => r.delay) END,
    push_id = CASE WHEN r.state = 'pending' THEN k.push_id END,
    attempts = CASE WHEN r.state = 'pending' THEN k.attempts ELSE 0 END,
    sent_at = CASE WHEN r.state = 'sent' THEN now() ELSE k.sent_at END,
    provider = coalesce(r.provider, k.provider),
    leased_until = NULL
FROM result r JOIN locked USING (device_id)
WHERE k.device_id = r.device_id AND (r.state <> 'pending' OR k.leased_until = r.lease)
"""

# What was read while a clear was on the way, which could not say it. A transaction that commits late has begun earlier;
# what is older than that was left out because there was too much, and would be left out again and again.
_READ_MEANWHILE = """
SELECT DISTINCT c.device_id
FROM messaging_pushcursor c
JOIN unnest(%s::uuid[], %s::timestamptz[]) AS d (device_id, claimed_at) ON d.device_id = c.device_id
WHERE c.must_clear AND c.cleared_at > d.claimed_at - interval '10 seconds'
"""

# A push has said what was to be cleared, each conversation to its device.
_SAY = """
UPDATE messaging_pushcursor c SET must_clear = false
FROM (
    SELECT c.id FROM messaging_pushcursor c
    JOIN unnest(%s::uuid[], %s::uuid[]) AS p (device_id, conversation_id) USING (device_id, conversation_id)
    WHERE c.must_clear ORDER BY c.id FOR UPDATE OF c
) said
WHERE c.id = said.id
"""
_CANCEL_CLEARS = """
UPDATE messaging_pushclear SET not_before = NULL, push_id = NULL, attempts = 0
WHERE device_id IN (
    SELECT device_id FROM messaging_pushclear k
    WHERE device_id = ANY(%s) AND leased_until IS NULL
        AND NOT EXISTS (SELECT FROM messaging_pushcursor c WHERE c.device_id = k.device_id AND c.must_clear)
    ORDER BY device_id FOR UPDATE
)
"""


def claim_notifications(*, limit: int, lease_seconds: float, count_members_to: int) -> list[DueNotification]:
    """Take up to ``limit`` rows that nobody has planned, oldest first. Members are counted up to a bound."""
    values = {"limit": limit, "lease": lease_seconds, "count_to": count_members_to}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM_NOTIFICATIONS, values)
        return [
            DueNotification(id_, Occasion(occasion), conversation, at, json.loads(payload or "null"), count)
            for id_, occasion, conversation, at, payload, count in cursor.fetchall()
        ]


def plan(planned: Sequence[Planned]) -> None:
    """Let devices hear of messages; what they have been told already changes nothing. One row for each cursor."""
    if not planned:
        return
    columns: Columns = [
        [row.device_id for row in planned],
        [row.conversation_id for row in planned],
        [row.subject for row in planned],
        [row.user_id for row in planned],
        [row.provider for row in planned],
        [row.first_seq for row in planned],
        [row.seq for row in planned],
        [row.not_before for row in planned],
        [row.expires_at for row in planned],
        [_json(row.payload) for row in planned],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_PLAN, columns)


def revise(notification_ids: Sequence[UUID]) -> None:
    """Let notifications on screens be shown anew whose messages these rows of the outbox say were changed."""
    with connection.cursor() as cursor:
        cursor.execute(_REVISE, [list(notification_ids)])


def renew_plan(notification_ids: Sequence[UUID], *, lease_seconds: float) -> None:
    """Keep notifications whose many recipients are still being planned."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE messaging_notification SET leased_until = now() + make_interval(secs => %s) WHERE id = ANY(%s)",
            [lease_seconds, list(notification_ids)],
        )


def finish_plan(notification_ids: Sequence[UUID]) -> None:
    """Mark rows of the outbox as planned."""
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


def claim_pushes(*, provider: str, limit: int, lease_seconds: float) -> list[DuePush]:
    """Take up to ``limit`` pushes that are due at this provider, with what decides about them."""
    claimed = _claim(_CLAIM, provider=provider, limit=limit, lease=lease_seconds)
    # A statement of its own, because its snapshot must be younger than the claim.
    return queries.due_pushes(claimed) if claimed else []


def claim_clears(*, provider: str, limit: int, lease_seconds: float) -> list[DueClear]:
    """Take up to ``limit`` devices of this provider that have to take something off their screens."""
    claimed = _claim(_CLAIM_CLEARS, provider=provider, limit=limit, lease=lease_seconds)
    return queries.due_clears(claimed) if claimed else []


@transaction.atomic
def record_results(results: Sequence[Result]) -> None:
    """
    Store what became of claimed pushes, and forget the targets that are gone.

    A target is forgotten only if it is still the one that was sent to. A device that has another one by now has not
    been reached: its push becomes due again. What was read while its push was on the way is cleared.
    """
    settled = _with_new_targets(_one_of_each(results))
    columns: Columns = [
        [result.due.id for result in settled],
        [result.due.leased_until for result in settled],
        [result.state.value for result in settled],
        [result.due.pending_seq for result in settled],
        [result.seq for result in settled],
        [result.due.revised_at for result in settled],
        [result.delay_seconds for result in settled],
        [result.defers for result in settled],
        [0 if result.counts else 1 for result in settled],
        [result.provider for result in settled],
        [_is_off(result) for result in settled],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, columns)
    _log([result for result in settled if not result.is_silent])
    _forget_subjects([result.due.id for result in settled if result.due.subject and result.state is not State.PENDING])
    sent = [result for result in settled if result.state is State.SENT]
    _say_clears(sent)
    screens.schedule_clears([result.due.device_id for result in settled if _is_off(result)])
    screens.clear_what_was_read([result.due.id for result in sent if not result.due.subject])


@transaction.atomic
def record_clears(results: Sequence[ClearResult]) -> None:
    """Store what became of claimed clears."""
    settled = _with_new_targets(results)
    columns: Columns = [
        [result.due.device_id for result in settled],
        [result.due.leased_until for result in settled],
        [result.state.value for result in settled],
        [result.delay_seconds for result in settled],
        [result.provider for result in settled],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_CLEARS, columns)
    said = [result.due for result in settled if result.state is not State.PENDING]
    _say([(due.device_id, conversation) for due in said for conversation in due.conversations])
    with connection.cursor() as cursor:
        cursor.execute(_READ_MEANWHILE, [[due.device_id for due in said], [due.now for due in said]])
        screens.schedule_clears([device_id for (device_id,) in cursor.fetchall()])


def _say_clears(sent: Sequence[Result]) -> None:
    """What alerts have said needs no push of its own any more."""
    said = [result.due for result in sent if result.kind is not Kind.SUMMARY and result.due.clears_beside]
    if said:
        _say([(due.device_id, conversation) for due in said for conversation in due.clears_beside])
        with connection.cursor() as cursor:
            cursor.execute(_CANCEL_CLEARS, [[due.device_id for due in said]])


def _say(pairs: Sequence[tuple[UUID, UUID]]) -> None:
    if pairs:
        with connection.cursor() as cursor:
            cursor.execute(_SAY, [list(column) for column in zip(*pairs, strict=True)])


def _is_off(result: Result) -> bool:
    """Whether a notification has lost its last message, so that it has to go from the screen."""
    return result.state is State.DROPPED and result.due.shown_seq > 0 and not result.due.previews


def _claim(statement: str, *, provider: str, limit: int, lease: float) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"provider": provider, "limit": limit, "lease": lease})
        return [row[0] for row in cursor.fetchall()]


def _log(results: Sequence[Result]) -> None:
    if not results:
        return
    columns: Columns = [
        # Their order is that of time: the admin lists the newest first without an index of its own.
        [new_id() for _ in results],
        [result.due.push_id for result in results],
        [result.due.device_id for result in results],
        [result.due.user_id for result in results],
        [result.due.conversation_id for result in results],
        [result.kind.value for result in results],
        [result.due.first_seq or result.seq for result in results],
        [max(result.seq, result.due.pending_seq) for result in results],
        [result.due.provider for result in results],
        [result.state.value for result in results],
        [result.reason for result in results],
        [result.answer for result in results],
        [result.due.attempts - (0 if result.counts else 1) for result in results],
        [_try(result) for result in results],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_LOG, columns)


def _try(result: Result) -> str | None:
    # What was dropped has not been tried.
    if result.state is State.DROPPED and not result.gone_target:
        return None
    code = result.reason or result.state.value
    return json.dumps([{"at": result.due.now.isoformat(), "code": code, "ms": result.milliseconds}])


def _forget_subjects(cursor_ids: Sequence[UUID]) -> None:
    """What has a subject is there for one push."""
    if cursor_ids:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM messaging_pushcursor WHERE id = ANY(%s)", [list(cursor_ids)])


def _one_of_each(results: Sequence[Result]) -> list[Result]:
    """The last result of each cursor; a final one counts more (a lease that ran out lets a push be tried twice)."""
    chosen: dict[UUID, Result] = {}
    for result in results:
        if result.state is not State.PENDING or result.due.id not in chosen:
            chosen[result.due.id] = result
    return list(chosen.values())


def _with_new_targets(results: Sequence[AnyResult]) -> list[AnyResult]:
    # Devices are locked one after the other, in the same order by every worker.
    in_order = sorted(results, key=lambda result: result.due.device_id)
    return [_try_the_new_target(result) if result.gone_target else result for result in in_order]


def _try_the_new_target(result: AnyResult) -> AnyResult:
    device = Device.objects.filter(id=result.due.device_id)
    if device.filter(voip_target=result.gone_target).update(voip_target=""):
        # The call is an alert now.
        return replace(result, state=State.PENDING, delay_seconds=0.0, gone_target=None)
    sent_to = device.filter(target=result.gone_target)
    if result.gone_at and sent_to.filter(target_updated_at__gt=result.gone_at).exists():
        # The app has registered the same target again since: it is in use, whatever the provider knew before.
        return replace(result, state=State.PENDING, gone_target=None)
    if sent_to.update(target="", target_updated_at=None):
        return result
    return replace(result, state=State.PENDING, delay_seconds=0.0, gone_target=None)


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
