"""
What became of pushes, for the people whose devices they were for.

What was decided is in the rows that workers leave. Where there is none, because nothing had to be planned, the reason
is found in what is so now; only rules that keep a device out of the plan are asked, since all others leave a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from django.db.models import QuerySet

from .. import payloads
from ..conversation import Member
from ..deliveries import Kind, Occasion, State
from ..device import Device
from ..errors import PushNotFound
from ..message import Message
from ..notification import Delivery, Notification, PushCursor
from ..reasons import explain
from . import messages

# What tells of messages; calls and tests are about none.
KINDS = (Kind.ALERT.value, Kind.REVISION.value, Kind.SUMMARY.value)


def get_push(*, actor: UUID, push_id: UUID) -> payloads.PushPayload:
    """
    Show what became of a push to a device of one's own.

    Raises:
        PushNotFound: there is none, it was long ago, or it was for somebody else.
    """
    rows = list(Delivery.objects.filter(push_id=push_id, user_id=actor).order_by("conversation_id"))
    # Found by the devices, because cursors are in no order of pushes.
    devices = Device.objects.filter(user=actor).values("id")
    waiting = PushCursor.objects.filter(device__in=devices, user_id=actor, push_id=push_id).first()
    if not rows and waiting:
        rows = [Delivery.begun(waiting)]
    if not rows:
        raise PushNotFound
    return payloads.push(rows, waiting)


def of_message(*, actor: UUID, message_id: UUID) -> payloads.MessagePushes:
    """
    Show why each of one's devices was, or was not, told of a message.

    Raises:
        MessageNotFound: it does not exist, or not for ``actor``.
    """
    message = messages.visible(actor, message_id)
    devices = list(Device.objects.filter(user=actor).select_related("session").order_by("created_at", "id"))
    told = _told(actor, message, devices)
    cursors = {
        cursor.device_id: cursor
        for cursor in PushCursor.objects.filter(
            device__in=devices, conversation=message.conversation_id, subject="", user_id=actor
        )
    }
    member = Member.objects.filter(conversation=message.conversation_id, user=actor).first()
    is_planned = not Notification.objects.filter(
        planned_at=None, message_id=message.id, occasion=Occasion.MESSAGE.value
    ).exists()
    return payloads.MessagePushes(
        message=message.id,
        devices=[
            _on_device(message, member, device, told[device.id], cursors.get(device.id), is_planned=is_planned)
            for device in devices
        ],
    )


def deliveries_of(message: Message) -> QuerySet[Delivery]:
    """Everything that told of a message, or was to tell of it."""
    return Delivery.objects.filter(
        conversation_id=message.conversation_id, first_seq__lte=message.seq, seq__gte=message.seq, kind__in=KINDS
    )


def _told(actor: UUID, message: Message, devices: Sequence[Device]) -> dict[UUID, list[Delivery]]:
    told: defaultdict[UUID, list[Delivery]] = defaultdict(list)
    ids = [device.id for device in devices]
    for row in deliveries_of(message).filter(device_id__in=ids, user_id=actor).order_by("created_at", "id"):
        told[row.device_id].append(row)
    return told


def _on_device(
    message: Message,
    member: Member | None,
    device: Device,
    rows: Sequence[Delivery],
    cursor: PushCursor | None,
    *,
    is_planned: bool,
) -> payloads.DevicePushes:
    waiting = cursor if cursor and cursor.not_before and cursor.first_seq <= message.seq <= cursor.pending_seq else None
    shown = [payloads.push([row], waiting if waiting and row.push_id == waiting.push_id else None) for row in rows]
    decisive = _decisive(shown, waiting)
    push_id = waiting.push_id if waiting else None
    if decisive:
        decision, reason, push_id = decisive.state, decisive.reason, decisive.push_id
    elif waiting:
        decision, reason = "waiting", "quiet_hours" if waiting.is_deferred else "scheduled"
    else:
        decision, reason = _without_push(message, member, device, is_planned=is_planned)
    return payloads.DevicePushes(
        device=device.id,
        name=device.name,
        platform=device.platform,
        decision=decision,
        reason=reason,
        explanation=decisive.explanation if decisive else explain(reason, State.PENDING),
        push_id=push_id,
        not_before=waiting.not_before if waiting and decision == "waiting" else None,
        pushes=shown,
    )


def _decisive(shown: Sequence[payloads.PushPayload], waiting: PushCursor | None) -> payloads.PushPayload | None:
    """The push that says how it ended: one that was sent before what is still to be tried, and that before the rest."""
    for push in reversed(shown):
        if push.state == State.SENT:
            return push
    if waiting:
        return next((push for push in shown if push.push_id == waiting.push_id), None)
    return shown[-1] if shown else None


def _without_push(message: Message, member: Member | None, device: Device, *, is_planned: bool) -> tuple[str, str]:
    """The decision about a device that no row is about, and its reason."""
    if reason := _reason_for_no_plan(message, member, device):
        return "not_planned", reason
    if not is_planned:
        return "waiting", "not_planned_yet"
    since = max(device.created_at, device.target_updated_at or device.created_at)
    return "not_planned", "registered_later" if since > message.created_at else "no_record"


def _reason_for_no_plan(message: Message, member: Member | None, device: Device) -> str | None:
    if message.sender_id == device.user_id:
        return "own_message"
    if message.kind == Message.Kind.SYSTEM:
        return "system_message"
    if member is None or member.joined_seq >= message.seq:
        return "not_a_member"
    if member.notification_level == Member.Level.NONE:
        return "notifications_off"
    session = getattr(device, "session", None)
    if session is not None and session.revoked_at is not None:
        return "logged_out"
    return None if device.target else "no_push_target"
