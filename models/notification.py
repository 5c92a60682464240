"""The push outbox: what the writer leaves for the worker, and what the worker makes of it."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from .deliveries import State
from .ids import new_id

_STATES = [(state.value, state.value.capitalize()) for state in State]


class Notification(models.Model):
    """One message that phones may have to be woken for, written in the message's own transaction."""

    id = models.UUIDField(primary_key=True, default=new_id)
    conversation_id = models.UUIDField()
    message_id = models.UUIDField()
    seq = models.BigIntegerField()
    sender_id = models.UUIDField(null=True)
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
            # Only pruning asks by age, and rows come in its order: a few pages of index are enough.
            BrinIndex(fields=["created_at"], name="notification_by_age"),
        ]

    def __str__(self) -> str:
        return f"notification of message {self.seq} in {self.conversation_id}"


class Delivery(models.Model):
    """One push to one device. Its id is the ``push_id`` that is the same on every try."""

    id = models.UUIDField(primary_key=True, default=new_id)
    notification = models.ForeignKey(Notification, models.CASCADE, related_name="deliveries", db_constraint=False)
    device_id = models.UUIDField()
    user_id = models.UUIDField()
    # Whose queue it waits in: one provider's outage leaves the others' queues short.
    provider = models.CharField(max_length=20)
    state = models.CharField(max_length=10, choices=_STATES, default=State.PENDING.value)
    reason = models.CharField(max_length=60, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    # Until then it belongs to the worker that wrote this value.
    leased_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        verbose_name_plural = "deliveries"
        constraints = [models.UniqueConstraint(fields=["notification", "device_id"], name="one_delivery_per_device")]
        indexes = [
            models.Index(fields=["provider", "not_before"], condition=Q(state="pending"), name="delivery_due"),
            models.Index(fields=["device_id"], condition=Q(state="pending"), name="delivery_waiting"),
            BrinIndex(fields=["created_at"], name="delivery_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.state} push to device {self.device_id}"
