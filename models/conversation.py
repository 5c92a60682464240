"""Where messages go, and who belongs there."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from . import channels, limits
from .device import CONTENTS, Device
from .fields import TransactionIdField
from .ids import new_id
from .user import User


class Conversation(models.Model):
    """A direct conversation of two, a group, or a feed. Its stream has the same id."""

    class Kind(models.TextChoices):
        DIRECT = "direct"
        GROUP = "group"
        FEED = "feed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    title = models.CharField(max_length=limits.MAX_TITLE_CHARACTERS, blank=True)
    data = models.JSONField(default=dict, blank=True)
    # What the app's own backend calls it.
    external_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    # The two people of a direct conversation, in order; what makes it the only one. Kept when a person is deleted.
    direct_low = models.UUIDField(null=True, blank=True, editable=False)
    direct_high = models.UUIDField(null=True, blank=True, editable=False)
    # Whether new members may read what was written before they came.
    shows_history_to_new_members = models.BooleanField(default=False)
    # How much a push about it may say; empty: as the deployment has it.
    push_content = models.CharField(max_length=10, choices=CONTENTS, blank=True)
    member_count = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(
                fields=["direct_low", "direct_high"],
                name="one_direct_conversation_per_pair",
            ),
            models.CheckConstraint(
                condition=Q(
                    kind="direct",
                    direct_low__isnull=False,
                    direct_high__isnull=False,
                    direct_low__lt=F("direct_high"),
                )
                | (~Q(kind="direct") & Q(direct_low__isnull=True, direct_high__isnull=True)),
                name="direct_conversation_has_an_ordered_pair",
            ),
        ]

    def __str__(self) -> str:
        return self.title or f"{self.kind} {self.id}"

    @property
    def channel(self) -> str:
        return channels.of_conversation(self.kind, self.id)


class Member(models.Model):
    """
    A user in a conversation, with a role and receipts.

    On the hot path of sending, so its keys are checked by the statements that write and not by the database.
    """

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        MEMBER = "member"

    class Level(models.TextChoices):
        ALL = "all"
        MENTIONS = "mentions"
        NONE = "none"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey(
        Conversation,
        models.CASCADE,
        related_name="members",
        db_constraint=False,
        db_index=False,
    )
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships", db_constraint=False)
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)
    # History, recovery and receipts begin after this seq.
    joined_seq = models.BigIntegerField(default=0)
    read_seq = models.BigIntegerField(default=0)
    delivered_seq = models.BigIntegerField(default=0)
    muted_until = models.DateTimeField(null=True, blank=True)
    notification_level = models.CharField(max_length=10, choices=Level, default=Level.ALL)
    is_hidden = models.BooleanField(default=False)
    joined_at = models.DateTimeField(db_default=Now(), editable=False)
    # Receipts and settings are part of sync, which asks what a snapshot could not see.
    xid = TransactionIdField()

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(fields=["conversation", "user"], name="one_membership_per_user"),
            models.CheckConstraint(
                condition=Q(read_seq__gte=0, delivered_seq__gte=0),
                name="cursors_not_negative",
            ),
        ]
        indexes = [models.Index(fields=["xid"], name="member_by_xid")]

    def __str__(self) -> str:
        return f"{self.role} {self.user_id} in {self.conversation_id}"


class DeviceReceipt(models.Model):
    """Everything up to ``delivered_seq`` of a conversation has reached this device."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    device = models.ForeignKey(
        Device,
        models.CASCADE,
        related_name="receipts",
        db_constraint=False,
        db_index=False,
    )
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="+", db_constraint=False)
    delivered_seq = models.BigIntegerField(default=0)
    xid = TransactionIdField()

    class Meta:
        app_label = "messaging"
        constraints = [models.UniqueConstraint(fields=["device", "conversation"], name="one_receipt_per_device")]

    def __str__(self) -> str:
        return f"{self.device_id} has {self.conversation_id} up to {self.delivered_seq}"
