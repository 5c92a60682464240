"""A restore or a failover begins a new epoch; nothing is recovered across it."""

from __future__ import annotations

import pytest
from django.db import connection

from models import channels
from models.operations import deployment
from models.queries import streams as queries
from models.stream import Deployment, Publication, Stream
from tests.factories import make_group, make_user, send

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_position_of_the_old_epoch_is_not_recovered() -> None:
    alice = make_user("Alice")
    group = make_group(alice)
    channel = channels.of_conversation("group", group.id)
    before = queries.read_positions([channel])[channel]
    send(alice, group)
    recovered = queries.recover([(channel, before.top, before.epoch)])

    deployment.new_epoch()

    after = queries.recover([(channel, before.top, before.epoch)])
    assert len(recovered[channel].publications or []) == 1
    assert after[channel].publications is None
    assert queries.read_positions([channel])[channel].epoch != before.epoch


def test_rows_from_another_cluster_are_stamped_anew() -> None:
    alice = make_user("Alice")
    group = make_group(alice)
    send(alice, group)
    with connection.cursor() as cursor:
        for table in ("messaging_publication", "messaging_stream", "messaging_member"):
            cursor.execute(f"UPDATE {table} SET xid = '9000000000'::xid8")

    deployment.new_epoch()

    _, snapshot = queries.unseen(None)
    assert queries.unseen(snapshot)[0] == []
    for model in (Publication, Stream):
        assert not model.objects.extra(where=["xid >= '9000000000'::xid8"]).exists()


def test_a_failover_begins_a_new_epoch_once() -> None:
    deployment.new_epoch()
    same_life = deployment.follow_timeline()
    before = Deployment.objects.get()
    Deployment.objects.update(timeline=before.timeline + 7)

    assert same_life is False
    assert [deployment.follow_timeline(), deployment.follow_timeline()] == [True, False]
    after = Deployment.objects.get()
    assert after.timeline == before.timeline
    assert after.epoch != before.epoch


def test_the_first_look_notes_the_timeline_and_keeps_the_epoch() -> None:
    Deployment.objects.update_or_create(id=1, defaults={"epoch": "first", "timeline": 0})

    assert deployment.follow_timeline() is False

    found = Deployment.objects.get()
    assert found.epoch == "first"
    assert found.timeline > 0
