"""The push outbox: what the writer leaves for the worker, what waits for each device, and what became of it."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from .conversation import Conversation
from .deliveries import Kind, Occasion, State, kind_of_subject
from .device import Device
from .ids import new_id


class Notification(models.Model):
    """One message that phones may have to be woken for, written in the message's own transaction."""

    id = models.UUIDField(primary_key=True, default=new_id)
    # The writer's statement names no occasion: its rows are messages.
    occasion = models.CharField(max_length=10, default=Occasion.MESSAGE.value, db_default=Occasion.MESSAGE.value)
    conversation_id = models.UUIDField()
    message_id = models.UUIDField()
    seq = models.BigIntegerField()
    sender_id = models.UUIDField(null=True)
    payload = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    leased_until = models.DateTimeField(null=True)
    planned_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=Q(planned_at__isnull=True),
                name="notification_unplanned",
            ),
            # How often somebody has rung in the last minute.
            models.Index(fields=["sender_id", "created_at"], condition=Q(occasion="call"), name="notification_of_call"),
            # Only pruning asks by age, and rows come in its order: a few pages of index are enough.
            BrinIndex(fields=["created_at"], name="notification_by_age"),
        ]

    def __str__(self) -> str:
        return f"notification of message {self.seq} in {self.conversation_id}"


class PushCursor(models.Model):
    """
    Where the pushes of one conversation stand on one device.

    One row for all messages that are coming: what is written meanwhile raises ``pending_seq``, so the next push tells
    of all of it. ``not_before`` is when it is due; without it nothing is. A call has a row of its own (``subject``).
    """

    id = models.UUIDField(primary_key=True, default=new_id)
    device = models.ForeignKey(Device, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="+", db_constraint=False)
    subject = models.CharField(max_length=80, blank=True)
    user_id = models.UUIDField()
    # Whose queue it waits in: one provider's outage leaves the others' queues short.
    provider = models.CharField(max_length=20)
    # The messages that are pending; zero when none are.
    first_seq = models.BigIntegerField(default=0)
    pending_seq = models.BigIntegerField(default=0)
    payload = models.JSONField(null=True)
    # A message on the screen was edited or deleted then.
    revised_at = models.DateTimeField(null=True)
    # Waits for the end of quiet hours.
    is_deferred = models.BooleanField(default=False)
    # The same for all tries of one push.
    push_id = models.UUIDField(null=True)
    # The newest message that a provider took, and the newest one that is on the screen (zero: none is).
    sent_seq = models.BigIntegerField(default=0)
    shown_seq = models.BigIntegerField(default=0)
    # Read elsewhere: to be taken off the screen (True), and when that was said.
    must_clear = models.BooleanField(default=False)
    cleared_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    not_before = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    # Until then it belongs to the worker that wrote this value.
    leased_until = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(fields=["device", "conversation", "subject"], name="one_cursor_per_device")
        ]
        indexes = [
            # In the order of a claim: a group's thousands are due at the same moment, and each would sort them all.
            models.Index(
                fields=["provider", "not_before", "device"], condition=Q(not_before__isnull=False), name="cursor_due"
            ),
            # What is on screens: asked when somebody reads.
            models.Index(fields=["user_id", "conversation"], condition=Q(shown_seq__gt=0), name="cursor_on_screen"),
        ]

    def __str__(self) -> str:
        return f"pushes of {self.conversation_id} to device {self.device_id}"


class PushClear(models.Model):
    """A device with notifications on its screen that somebody has read elsewhere; one row for all of them."""

    device = models.OneToOneField(Device, models.CASCADE, related_name="+", primary_key=True, db_constraint=False)
    user_id = models.UUIDField()
    provider = models.CharField(max_length=20)
    push_id = models.UUIDField(null=True)
    sent_at = models.DateTimeField(null=True)
    not_before = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    leased_until = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        indexes = [
            models.Index(fields=["provider", "not_before"], condition=Q(not_before__isnull=False), name="clear_due")
        ]

    def __str__(self) -> str:
        return f"clears for device {self.device_id}"


class Delivery(models.Model):
    """
    What became of one push, for whoever asks why it did not arrive.

    ``push_id`` is the same on every try. A summary of several conversations has a row for each of them.
    """

    id = models.UUIDField(primary_key=True, default=new_id)
    push_id = models.UUIDField()
    device_id = models.UUIDField()
    user_id = models.UUIDField()
    conversation_id = models.UUIDField()
    kind = models.CharField(max_length=10, choices=[(kind.value, kind.value.capitalize()) for kind in Kind])
    # The messages that it was about.
    first_seq = models.BigIntegerField(default=0)
    seq = models.BigIntegerField(default=0)
    provider = models.CharField(max_length=20)
    state = models.CharField(max_length=10, choices=[(state.value, state.value.capitalize()) for state in State])
    reason = models.CharField(max_length=60, blank=True)
    # The provider's answer to the last try, without anything secret.
    answer = models.CharField(max_length=500, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    # Each try: when (``at``), its outcome (``code``) and how long it took (``ms``).
    tries = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    # What the app reported.
    received_at = models.DateTimeField(null=True)
    displayed_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["push_id", "conversation_id"], name="one_delivery_per_push_and_conversation"
            )
        ]
        indexes = [
            models.Index(fields=["conversation_id", "seq"], name="delivery_of_message"),
            models.Index(fields=["device_id", "created_at"], name="delivery_of_device"),
            models.Index(fields=["created_at"], condition=Q(state="dead"), name="delivery_dead"),
            BrinIndex(fields=["created_at"], name="delivery_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.state} push to device {self.device_id}"

    @classmethod
    def begun(cls, cursor: PushCursor) -> Delivery:
        """The record of a push of which no worker has told anything yet."""
        assert cursor.push_id is not None
        return cls(
            push_id=cursor.push_id,
            device_id=cursor.device_id,
            user_id=cursor.user_id,
            conversation_id=cursor.conversation_id,
            kind=kind_of_subject(cursor.subject).value,
            first_seq=cursor.first_seq,
            seq=cursor.pending_seq,
            provider=cursor.provider,
            state=State.PENDING.value,
            reason="scheduled",
        )
