from django.db import migrations


class Migration(migrations.Migration):
    """The one row that names this life of the database."""

    dependencies = [("messaging", "0004_session_without_hash_indexes")]

    operations = [
        migrations.RunSQL(
            "INSERT INTO messaging_deployment (id, epoch, timeline) "
            "VALUES (1, left(replace(gen_random_uuid()::text, '-', ''), 8), 0) ON CONFLICT DO NOTHING",
            migrations.RunSQL.noop,
        )
    ]
