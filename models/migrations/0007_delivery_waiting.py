"""What waits for a device is found when its last socket closes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("messaging", "0006_conversation_external_id")]

    operations = [
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("state", "pending")), fields=["device_id"], name="delivery_waiting"
            ),
        ),
    ]
