"""
The deployment's epoch: new after a restore or a failover, so that no client waits for what is gone.

It is part of the epoch of every stream as clients see it; a new one makes all of them load afresh.
"""

from __future__ import annotations

from django.apps import apps
from django.db import connection, transaction

from ..fields import TransactionIdField
from ..streams import new_epoch as random_epoch

# The timeline of this life of the database; a standby that took over writes on another. (The one that
# pg_control_checkpoint() tells is minutes late.)
_TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"


@transaction.atomic
def new_epoch() -> str:
    """
    Begin a new epoch, and return it. For operators, after they restored a backup, before anything is started.

    Rows that a dump brought from another cluster bear transaction ids that are still to come here; they are stamped
    anew, or they would count as unseen until then.
    """
    epoch = random_epoch()
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO messaging_deployment (id, epoch, timeline) VALUES (1, %s, {_TIMELINE}) "
            "ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, timeline = excluded.timeline",
            [epoch],
        )
        for table in _stamped_tables():
            cursor.execute(
                f'UPDATE "{table}" SET xid = pg_current_xact_id() '
                "WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id()"
            )
    return epoch


def follow_timeline() -> bool:
    """Begin a new epoch if the database has failed over since somebody last looked; return whether it has."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT timeline, {_TIMELINE} FROM messaging_deployment")
        row = cursor.fetchone()
        if row is None or row[0] == row[1]:
            return False
        seen, present = row
        # Whoever looks first decides for all processes. Nothing was seen yet: nothing can have been lost.
        cursor.execute(
            "UPDATE messaging_deployment SET timeline = %s, epoch = CASE WHEN timeline = 0 THEN epoch ELSE %s END "
            "WHERE timeline = %s",
            [present, random_epoch(), seen],
        )
        return bool(seen) and cursor.rowcount == 1


def _stamped_tables() -> list[str]:
    return [
        model._meta.db_table
        for model in apps.get_app_config("messaging").get_models()
        if any(isinstance(field, TransactionIdField) for field in model._meta.get_fields())
    ]
