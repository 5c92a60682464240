"""What Django cannot say about the tables of the hot path, and the deployment's first epoch."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("messaging", "0001_initial")]

    operations = [
        # Each send raises ``top``: with free space in the page the new row version needs no index entry (HOT).
        migrations.RunSQL(
            "ALTER TABLE messaging_stream SET (fillfactor = 50)",
            "ALTER TABLE messaging_stream RESET (fillfactor)",
        ),
        migrations.RunSQL(
            "ALTER TABLE messaging_member SET (fillfactor = 80)",
            "ALTER TABLE messaging_member RESET (fillfactor)",
        ),
        # Eight letters: never empty, never "_", which clients send to say that they lost their position.
        migrations.RunSQL(
            "INSERT INTO messaging_deployment (id, epoch, timeline) "
            "VALUES (1, translate(substr(md5(gen_random_uuid()::text), 1, 8), '0123456789', 'ghijklmnop'), 0)",
            "DELETE FROM messaging_deployment",
        ),
    ]
