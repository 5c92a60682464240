"""Streams and their publications: everything durable that clients hear."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from .fields import TransactionIdField
from .ids import new_id


class Deployment(models.Model):
    """The one row that names this life of the database; a restore or failover gives it a new epoch."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    epoch = models.CharField(max_length=16)
    timeline = models.PositiveIntegerField(default=0)

    class Meta:
        app_label = "messaging"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_deployment")]


class Stream(models.Model):
    """
    The history of a channel: publications 1, 2, 3 … without holes, in one epoch.

    Its row is what every writer locks first, in the order (kind, id). Half the page stays free, so that raising ``top``
    never has to touch an index.
    """

    class Kind(models.IntegerChoices):
        CONVERSATION = 0
        PERSONAL = 1
        OTHER = 2

    id = models.UUIDField(primary_key=True)
    kind = models.SmallIntegerField(choices=Kind)
    channel = models.CharField(max_length=255, unique=True)
    epoch = models.CharField(max_length=16)
    top = models.BigIntegerField(default=0)
    # When the newest message (not any publication) was stored: what conversation lists are ordered by.
    active_at = models.DateTimeField(db_default=Now())
    xid = TransactionIdField()

    class Meta:
        app_label = "messaging"

    def __str__(self) -> str:
        return self.channel


class Publication(models.Model):
    """
    One entry of a stream.

    About a message it only refers to the row (``message_id``), so that a deleted text leaves no copy; otherwise
    ``data`` holds the payload's bytes as they came. ``subject`` and ``ref`` say whom and what it concerns, for effects
    that every process carries out.
    """

    pk = models.CompositePrimaryKey("stream_id", "offset")
    stream = models.ForeignKey(
        Stream,
        models.CASCADE,
        related_name="publications",
        db_constraint=False,
        db_index=False,
    )
    offset = models.BigIntegerField()
    kind = models.CharField(max_length=40)
    message_id = models.UUIDField(null=True)
    data = models.BinaryField(null=True)
    subject = models.UUIDField(null=True)
    ref = models.UUIDField(null=True)
    info = models.BinaryField(null=True)
    tags = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    xid = TransactionIdField()

    class Meta:
        app_label = "messaging"
        indexes = [
            models.Index(fields=["xid"], name="publication_by_xid"),
            models.Index(fields=["created_at"], name="publication_by_age"),
        ]


class WriterBatch(models.Model):
    """Written with each batch: whether it is here tells whether a commit whose answer was lost took place."""

    id = models.UUIDField(primary_key=True, default=new_id)
    created_at = models.DateTimeField(db_default=Now())
    xid = TransactionIdField()

    class Meta:
        app_label = "messaging"
