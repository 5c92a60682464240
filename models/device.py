"""Installed apps that are logged in, and the sessions that they hold."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from .deliveries import Content
from .ids import new_id
from .user import User

CONTENTS = [(content.value, content.value.replace("_", " ").capitalize()) for content in Content]


class Device(models.Model):
    """One installed app of one user; ``target`` is its push token (or installation id)."""

    class Platform(models.TextChoices):
        IOS = "ios"
        ANDROID = "android"
        WEB = "web"
        OTHER = "other"

    class TargetKind(models.TextChoices):
        TOKEN = "token"  # noqa: S105 - a word, not a secret
        FID = "fid"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="devices")
    # The app's own id of the installation, so that a second log-in on one phone finds its device again.
    install_id = models.CharField(max_length=64, default="", blank=True)
    platform = models.CharField(max_length=10, choices=Platform, default=Platform.OTHER)
    name = models.CharField(max_length=100, blank=True)
    push_provider = models.CharField(max_length=20, blank=True, help_text="Empty: the deployment's default.")
    target_kind = models.CharField(max_length=10, choices=TargetKind, default=TargetKind.TOKEN)
    target = models.TextField(blank=True)
    # An iPhone's second token, for calls (PushKit); used by the provider `apns`, beside the first. A secret as well.
    voip_target = models.TextField(blank=True)
    target_updated_at = models.DateTimeField(null=True, blank=True)
    # How much a push to this device may say; empty: as the deployment and the conversation have it.
    push_content = models.CharField(max_length=10, choices=CONTENTS, blank=True)
    # 32 random bytes of the app's own, for pushes that only it can read. A secret.
    push_key = models.BinaryField(max_length=32, null=True, blank=True)
    locale = models.CharField(max_length=35, blank=True)
    app_version = models.CharField(max_length=50, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(
                fields=["push_provider", "target_kind", "target"],
                condition=~Q(target=""),
                name="push_target_belongs_to_one_device",
            ),
            models.UniqueConstraint(
                fields=["user", "install_id"],
                condition=~Q(install_id=""),
                name="one_device_per_installation",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.platform} device of {self.user_id}"


class Session(models.Model):
    """
    One log-in of one device.

    A refresh token names its session; of the last two only hashes are kept. The previous one is honoured for a short
    grace, for a phone that never saw the answer to its refresh; used later it is a stolen token, and the session ends.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="sessions")
    device = models.OneToOneField(Device, models.CASCADE, related_name="session")
    refresh_hash = models.BinaryField(max_length=32)
    previous_hash = models.BinaryField(max_length=32, null=True)
    rotated_at = models.DateTimeField(db_default=Now())
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "messaging"

    def __str__(self) -> str:
        return f"session {self.id} of {self.user_id}"
