"""What members send."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from . import limits
from .conversation import Conversation
from .ids import new_id


class Message(models.Model):
    """
    One message; the only place where its text is kept.

    ``seq`` is the offset of the publication that brought it. ``sender`` is an id without a key: people are deleted,
    what they wrote stays.
    """

    class Kind(models.TextChoices):
        TEXT = "text"
        SYSTEM = "system"
        CUSTOM = "custom"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey(
        Conversation,
        models.CASCADE,
        related_name="messages",
        db_constraint=False,
        db_index=False,
    )
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.TEXT)
    sender_id = models.UUIDField(null=True, blank=True)
    client_id = models.CharField(max_length=limits.MAX_CLIENT_ID_CHARACTERS)
    text = models.TextField(null=True, blank=True)
    data = models.JSONField(null=True, blank=True)
    mentions = ArrayField(models.UUIDField(), default=list, blank=True)
    reply_to = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    edited_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="one_message_per_seq"),
            models.UniqueConstraint(
                fields=["conversation", "sender_id", "client_id"],
                name="one_message_per_client_id",
            ),
            models.CheckConstraint(
                condition=Q(deleted_at__isnull=True) | Q(text__isnull=True, data__isnull=True),
                name="deleted_message_keeps_no_content",
            ),
        ]

    def __str__(self) -> str:
        return f"message {self.seq} of {self.conversation_id}"
