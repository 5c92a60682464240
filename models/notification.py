"""The push outbox."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from .ids import new_id


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
            )
        ]


class Delivery(models.Model):
    """One push to one device. Its id is the ``push_id`` that is the same on every try."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        DROPPED = "dropped"
        DEAD = "dead"

    id = models.UUIDField(primary_key=True, default=new_id)
    notification = models.ForeignKey(Notification, models.CASCADE, related_name="deliveries", db_constraint=False)
    device_id = models.UUIDField()
    user_id = models.UUIDField()
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    reason = models.CharField(max_length=60, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    leased_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "messaging"
        constraints = [models.UniqueConstraint(fields=["notification", "device_id"], name="one_delivery_per_device")]
        indexes = [models.Index(fields=["not_before"], condition=Q(state="pending"), name="delivery_due")]
