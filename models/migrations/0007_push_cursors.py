import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.datetime

from django.db import migrations, models

from models.ids import new_id


# What waited for a device is planned anew; what has been sent once may be sent a second time, and is shown once.
PLAN_ANEW = """
UPDATE messaging_notification n SET planned_at = NULL
WHERE EXISTS (SELECT FROM messaging_delivery d WHERE d.notification_id = n.id AND d.state = 'pending')
"""
# Followers of a feed hear of it when they ask for that.
FOLLOWERS_ARE_SILENT = """
UPDATE messaging_member m SET notification_level = 'none'
FROM messaging_conversation c WHERE c.id = m.conversation_id AND c.kind = 'feed' AND m.role = 'member'
"""


class Migration(migrations.Migration):
    dependencies = [("messaging", "0006_conversation_external_id")]

    operations = [
        migrations.RunSQL(PLAN_ANEW, migrations.RunSQL.noop),
        migrations.RunSQL(FOLLOWERS_ARE_SILENT, migrations.RunSQL.noop),
        migrations.DeleteModel("Delivery"),
        migrations.AddField(
            model_name="conversation",
            name="push_content",
            field=models.CharField(
                blank=True,
                choices=[("full", "Full"), ("sender", "Sender"), ("encrypted", "Encrypted"), ("id_only", "Id only")],
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="push_content",
            field=models.CharField(
                blank=True,
                choices=[("full", "Full"), ("sender", "Sender"), ("encrypted", "Encrypted"), ("id_only", "Id only")],
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="push_key",
            field=models.BinaryField(blank=True, max_length=32, null=True),
        ),
        migrations.AddField(
            model_name="device",
            name="voip_target",
            field=models.TextField(blank=True),
        ),
        migrations.AddField(
            model_name="notification",
            name="occasion",
            field=models.CharField(db_default="message", default="message", max_length=10),
        ),
        migrations.AddField(
            model_name="notification",
            name="payload",
            field=models.JSONField(null=True),
        ),
        migrations.AddIndex(
            model_name="notification",
            index=models.Index(
                condition=models.Q(("occasion", "call")),
                fields=["sender_id", "created_at"],
                name="notification_of_call",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="quiet_from",
            field=models.TimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="quiet_until",
            field=models.TimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="summarized_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="time_zone",
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name="user",
            name="wants_summaries",
            field=models.BooleanField(
                db_default=True, default=True, help_text="E-mails about what has been unread for long."
            ),
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.UUIDField(default=new_id, primary_key=True, serialize=False)),
                ("push_id", models.UUIDField()),
                ("device_id", models.UUIDField()),
                ("user_id", models.UUIDField()),
                ("conversation_id", models.UUIDField()),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("alert", "Alert"),
                            ("revision", "Revision"),
                            ("summary", "Summary"),
                            ("clear", "Clear"),
                            ("call", "Call"),
                            ("test", "Test"),
                        ],
                        max_length=10,
                    ),
                ),
                ("first_seq", models.BigIntegerField(default=0)),
                ("seq", models.BigIntegerField(default=0)),
                ("provider", models.CharField(max_length=20)),
                (
                    "state",
                    models.CharField(
                        choices=[("pending", "Pending"), ("sent", "Sent"), ("dropped", "Dropped"), ("dead", "Dead")],
                        max_length=10,
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=60)),
                ("answer", models.CharField(blank=True, max_length=500)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("tries", models.JSONField(default=list)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("finished_at", models.DateTimeField(null=True)),
                ("received_at", models.DateTimeField(null=True)),
                ("displayed_at", models.DateTimeField(null=True)),
                ("opened_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "indexes": [
                    models.Index(fields=["conversation_id", "seq"], name="delivery_of_message"),
                    models.Index(fields=["device_id", "created_at"], name="delivery_of_device"),
                    models.Index(condition=models.Q(("state", "dead")), fields=["created_at"], name="delivery_dead"),
                    django.contrib.postgres.indexes.BrinIndex(fields=["created_at"], name="delivery_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("push_id", "conversation_id"), name="one_delivery_per_push_and_conversation"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="PushClear",
            fields=[
                (
                    "device",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="messaging.device",
                    ),
                ),
                ("user_id", models.UUIDField()),
                ("provider", models.CharField(max_length=20)),
                ("push_id", models.UUIDField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("not_before", models.DateTimeField(null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("leased_until", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("not_before__isnull", False)),
                        fields=["provider", "not_before"],
                        name="clear_due",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="PushCursor",
            fields=[
                ("id", models.UUIDField(default=new_id, primary_key=True, serialize=False)),
                (
                    "device",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="messaging.device",
                    ),
                ),
                (
                    "conversation",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="messaging.conversation",
                    ),
                ),
                ("subject", models.CharField(blank=True, max_length=80)),
                ("user_id", models.UUIDField()),
                ("provider", models.CharField(max_length=20)),
                ("first_seq", models.BigIntegerField(default=0)),
                ("pending_seq", models.BigIntegerField(default=0)),
                ("payload", models.JSONField(null=True)),
                ("revised_at", models.DateTimeField(null=True)),
                ("is_deferred", models.BooleanField(default=False)),
                ("push_id", models.UUIDField(null=True)),
                ("sent_seq", models.BigIntegerField(default=0)),
                ("shown_seq", models.BigIntegerField(default=0)),
                ("must_clear", models.BooleanField(default=False)),
                ("cleared_at", models.DateTimeField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("not_before", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("leased_until", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("not_before__isnull", False)),
                        fields=["provider", "not_before", "device"],
                        name="cursor_due",
                    ),
                    models.Index(
                        condition=models.Q(("shown_seq__gt", 0)),
                        fields=["user_id", "conversation"],
                        name="cursor_on_screen",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("device", "conversation", "subject"), name="one_cursor_per_device"
                    )
                ],
            },
        ),
    ]
