"""People with an account, and whom they have blocked."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.contrib.auth.models import (
    AbstractBaseUser,
    BaseUserManager,
    PermissionsMixin,
)
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now

from . import limits
from .ids import new_id


class UserManager(BaseUserManager["User"]):
    """Makes users; the e-mail address is the log-in."""

    def create_user(self, email: str | None = None, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower() if email else None, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, **{**fields, "is_staff": True, "is_superuser": True})

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username)


class User(AbstractBaseUser, PermissionsMixin):
    """A person with an account; ``external_id`` is the name that the app's own backend gives them."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    email = models.EmailField(null=True, blank=True, unique=True)
    name = models.CharField(max_length=limits.MAX_NAME_CHARACTERS, blank=True)
    external_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    data = models.JSONField(default=dict, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    # The hours in which nothing may wake the phones, in the zone's own time. None: there are none.
    time_zone = models.CharField(max_length=64, blank=True)
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    wants_summaries = models.BooleanField(
        default=True, db_default=True, help_text="E-mails about what has been unread for long."
    )
    summarized_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        app_label = "messaging"
        indexes = [
            models.Index(Lower("name"), name="user_by_lower_name"),
        ]
        constraints = [
            models.UniqueConstraint(Lower("email"), name="email_unique_whatever_its_case"),
        ]

    def __str__(self) -> str:
        return self.name or self.email or str(self.id)


class Block(models.Model):
    """``blocker`` wants nothing from ``blocked``; direct messages stop in both directions."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    blocker = models.ForeignKey(User, models.CASCADE, related_name="blocks")
    blocked = models.ForeignKey(User, models.CASCADE, related_name="blocked_by")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "messaging"
        constraints = [
            models.UniqueConstraint(fields=["blocker", "blocked"], name="one_block_per_pair"),
            models.CheckConstraint(condition=~Q(blocker=F("blocked")), name="nobody_blocks_themselves"),
        ]

    def __str__(self) -> str:
        return f"{self.blocker_id} blocks {self.blocked_id}"

    @classmethod
    def between(cls, one: UUID, other: UUID) -> models.QuerySet[Block]:
        """The blocks between two people, whoever made them."""
        return cls.objects.filter(Q(blocker=one, blocked=other) | Q(blocker=other, blocked=one))
