"""What is done to pushes from outside: apps tell that one arrived or ask for one, operators send one again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from .. import limits, payloads
from ..deliveries import NO_CONVERSATION, TEST_SUBJECT, Kind
from ..device import Device
from ..errors import DeviceNotFound, InvalidInput, NoPushTarget, PushNotFound, TooManyRequests
from ..ids import new_id
from ..notification import Delivery, PushCursor

# Each implies those before it.
STEPS = ("received", "displayed", "opened")

# What is dead, and still belongs to the device of a member. What a provider took since is not sent a second time: the
# worker asks the cursor for that.
_SEND_AGAIN = """
UPDATE messaging_pushcursor c SET
    first_seq = CASE WHEN c.pending_seq = 0 THEN d.first_seq ELSE least(c.first_seq, d.first_seq) END,
    pending_seq = greatest(c.pending_seq, d.seq),
    attempts = CASE WHEN c.leased_until IS NULL THEN 0 ELSE c.attempts END,
    not_before = now(),
    expires_at = greatest(c.expires_at, now() + interval '1 hour')
FROM (
    SELECT c.id, d.first_seq, d.seq
    FROM (
        SELECT device_id, conversation_id, min(first_seq) AS first_seq, max(seq) AS seq FROM messaging_delivery
        WHERE id = ANY(%(ids)s) AND state = 'dead' AND kind = ANY(%(kinds)s) AND seq > 0
        GROUP BY device_id, conversation_id
    ) d
    JOIN messaging_pushcursor c
        ON c.device_id = d.device_id AND c.conversation_id = d.conversation_id AND c.subject = ''
    JOIN messaging_device device ON device.id = c.device_id AND device.user_id = c.user_id
    JOIN messaging_member m ON m.conversation_id = c.conversation_id AND m.user_id = c.user_id
    ORDER BY c.id FOR UPDATE OF c
) d
WHERE c.id = d.id
"""


@transaction.atomic
def report(*, actor: UUID, device_id: UUID | None, push_id: UUID, event: str) -> None:
    """
    Take down that a push has reached this device, was shown there, or was opened. The first time counts.

    Raises:
        InvalidInput: there is no such event.
        PushNotFound: there is no such push, it was long ago, or it was for another device.
    """
    if event not in STEPS:
        raise InvalidInput(f"An event is one of {', '.join(STEPS)}.")
    if device_id is None:
        raise PushNotFound
    rows = _rows(actor, device_id, push_id) or _begun(actor, device_id, push_id)
    if not rows:
        raise PushNotFound
    now = timezone.now()
    for row in rows:
        news = [f"{step}_at" for step in STEPS[: STEPS.index(event) + 1] if getattr(row, f"{step}_at") is None]
        for field in news:
            setattr(row, field, now)
        if news:
            row.save(update_fields=news)


@transaction.atomic
def send_test(*, actor: UUID, device_id: UUID) -> payloads.PushPayload:
    """
    Send a push to a device of one's own, to see whether it arrives; what is returned says how to ask for its fate.

    Raises:
        DeviceNotFound: it does not exist, or is somebody else's.
        NoPushTarget: nobody knows where its pushes go.
        TooManyRequests: the one before was a moment ago.
    """
    device = Device.objects.select_for_update(of=("self",)).filter(id=device_id, user=actor).first()
    if device is None:
        raise DeviceNotFound
    if not device.target:
        raise NoPushTarget
    _wait_for_the_last_test(device)
    cursor = PushCursor.objects.create(
        device=device,
        conversation_id=NO_CONVERSATION,
        subject=f"{TEST_SUBJECT}{new_id()}",
        user_id=actor,
        provider=device.push_provider or settings.ROOST.push_provider,
        first_seq=1,
        pending_seq=1,
        push_id=new_id(),
        not_before=Now(),
        expires_at=Now() + timedelta(seconds=limits.PUSH_TEST_SECONDS),
    )
    cursor.refresh_from_db()
    return payloads.push([Delivery.begun(cursor)], cursor)


@transaction.atomic
def send_again(*, delivery_ids: Sequence[UUID]) -> int:
    """
    Give what providers refused for good another hour; return how many conversations that are, on how many devices.

    Only what told of messages, and only where somebody is still a member. All rules are asked again before it is sent.
    """
    kinds = [Kind.ALERT.value, Kind.REVISION.value, Kind.SUMMARY.value]
    with connection.cursor() as cursor:
        cursor.execute(_SEND_AGAIN, {"ids": list(delivery_ids), "kinds": kinds})
        count: int = cursor.rowcount
    return count


def _rows(actor: UUID, device_id: UUID, push_id: UUID) -> list[Delivery]:
    found = Delivery.objects.select_for_update().filter(push_id=push_id, device_id=device_id, user_id=actor)
    # The order in which workers write them.
    return list(found.order_by("conversation_id"))


def _begun(actor: UUID, device_id: UUID, push_id: UUID) -> list[Delivery]:
    """A phone may be faster than the worker that has sent the push: begin the row that it is about to write."""
    cursor = PushCursor.objects.filter(device=device_id, user_id=actor, push_id=push_id).first()
    if cursor is None:
        return []
    Delivery.objects.bulk_create([Delivery.begun(cursor)], ignore_conflicts=True)
    return _rows(actor, device_id, push_id)


def _wait_for_the_last_test(device: Device) -> None:
    every = timedelta(seconds=limits.PUSH_TEST_EVERY_SECONDS)
    life = timedelta(seconds=limits.PUSH_TEST_SECONDS)
    begun = PushCursor.objects.filter(
        device=device, subject__startswith=TEST_SUBJECT, expires_at__gt=Now() + life - every
    )
    ended = Delivery.objects.filter(device_id=device.id, kind=Kind.TEST.value, created_at__gt=Now() - every)
    times = [expires_at - life for expires_at in begun.values_list("expires_at", flat=True) if expires_at]
    times += ended.values_list("created_at", flat=True)
    if times:
        left = (max(times) + every - timezone.now()).total_seconds()
        raise TooManyRequests(retry_after=max(left, 1.0))
