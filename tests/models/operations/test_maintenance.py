"""What the worker removes, and what it leaves."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Model
from django.utils import timezone
from pytest_django.fixtures import Settings

from models.device import Device, Session
from models.ids import new_id
from models.message import Message
from models.notification import Delivery, Notification, PushCursor
from models.operations import maintenance
from models.queries.streams import recover
from models.stream import Publication, Stream, WriterBatch
from models.user import User
from tests import factories

pytestmark = pytest.mark.django_db


def make_notification(*, days: float = 0, is_planned: bool = True) -> Notification:
    then = timezone.now() - timedelta(days=days)
    return Notification.objects.create(
        conversation_id=new_id(),
        message_id=new_id(),
        seq=1,
        created_at=then,
        planned_at=then if is_planned else None,
    )


def make_delivery(*, state: str = "sent", days: float = 0) -> Delivery:
    then = timezone.now() - timedelta(days=days)
    return Delivery.objects.create(
        push_id=new_id(),
        device_id=new_id(),
        user_id=new_id(),
        conversation_id=new_id(),
        kind="alert",
        provider="memory",
        state=state,
        created_at=then,
        finished_at=None if state == "pending" else then,
    )


def make_cursor(**fields: Any) -> PushCursor:
    values = {"conversation_id": new_id(), "pending_seq": 1, "not_before": timezone.now(), **fields}
    device = Device.objects.create(user=User.objects.create(name="Bea"))
    return PushCursor.objects.create(device=device, user_id=device.user_id, provider="memory", **values)


def make_session(*, days_left: float, target: str = "") -> Session:
    user = User.objects.create(name="Ann")
    device = Device.objects.create(user=user, target=target)
    expires = timezone.now() + timedelta(days=days_left)
    return Session.objects.create(user=user, device=device, refresh_hash=b"x", expires_at=expires)


def exists(row: Model) -> bool:
    return type(row)._default_manager.filter(pk=row.pk).exists()


def test_finished_deliveries_are_deleted_after_three_days() -> None:
    old, dropped = make_delivery(days=4), make_delivery(state="dropped", days=4)
    young, pending = make_delivery(days=2), make_delivery(state="pending", days=4)

    count = maintenance.prune_deliveries()

    assert count == 2
    assert [exists(row) for row in (old, dropped, young, pending)] == [False, False, True, True]


def test_dead_deliveries_are_kept_for_two_weeks() -> None:
    younger, older = make_delivery(state="dead", days=13), make_delivery(state="dead", days=15)

    maintenance.prune_deliveries()

    assert [exists(row) for row in (younger, older)] == [True, False]


def test_planned_notifications_go_after_three_days() -> None:
    old, unplanned = make_notification(days=4), make_notification(days=4, is_planned=False)
    young = make_notification(days=2)

    count = maintenance.prune_notifications()

    assert count == 1
    assert [exists(row) for row in (old, unplanned, young)] == [False, True, True]


def test_pushes_that_nobody_can_send_any_more_are_dropped() -> None:
    past, future = timezone.now() - timedelta(minutes=1), timezone.now() + timedelta(minutes=1)
    late = make_cursor(expires_at=past)
    in_time = make_cursor(expires_at=future)
    claimed = make_cursor(expires_at=past, leased_until=future)
    call = make_cursor(expires_at=past, subject="call:1")

    count = maintenance.expire_pushes()

    assert count == 2
    assert set(PushCursor.objects.filter(not_before__isnull=False)) == {in_time, claimed}
    assert [exists(row) for row in (late, call)] == [True, False]
    assert set(Delivery.objects.values_list("kind", "state", "reason", "device_id")) == {
        ("alert", "dropped", "expired", late.device_id),
        ("call", "dropped", "expired", call.device_id),
    }


def test_devices_that_were_not_seen_for_long_are_removed() -> None:
    now = timezone.now()
    old, young = (
        Device.objects.create(
            user=User.objects.create(name="Bea"), target=f"target-{days}", last_seen_at=now - timedelta(days=days)
        )
        for days in (271, 269)
    )

    waits = PushCursor.objects.create(device=old, conversation_id=new_id(), user_id=old.user_id, provider="memory")

    count = maintenance.remove_stale_devices()

    assert count == 1
    assert [exists(row) for row in (old, young, waits)] == [False, True, False]


def test_sessions_are_deleted_a_week_after_they_expired() -> None:
    old, recent, live = make_session(days_left=-8), make_session(days_left=-6), make_session(days_left=1)

    count = maintenance.prune_sessions()

    assert count == 1
    assert [exists(row) for row in (old, recent, live)] == [False, True, True]


def test_a_phone_whose_log_in_expired_gets_no_more_pushes() -> None:
    expired, live = make_session(days_left=-1, target="one"), make_session(days_left=1, target="two")

    maintenance.silence_expired_sessions()

    expired.device.refresh_from_db()
    live.device.refresh_from_db()
    assert (expired.device.target, live.device.target) == ("", "two")


def test_publications_are_deleted_once_recovery_no_longer_reaches_them(settings: Settings) -> None:
    settings.ROOST = settings.ROOST.model_copy(update={"retention_days": 10})
    alice = factories.make_user("Alice")
    group = factories.make_group(alice)
    first, second = factories.send_all(alice, group, ["one", "two"])
    days_ago = timezone.now() - timedelta(days=11)
    Publication.objects.exclude(message_id=second).update(created_at=days_ago)
    top = Stream.objects.get(id=group.id).top

    count = maintenance.prune_publications()

    assert count >= 2
    assert list(Publication.objects.values_list("message_id", flat=True)) == [second]
    assert Message.objects.filter(id__in=[first, second]).count() == 2
    known = {after: recover([(group.channel, after, "")])[group.channel] for after in (top - 2, top - 1, top)}
    assert known[top - 2].publications is None
    assert [p.offset for p in known[top - 1].publications or []] == [top]
    assert known[top].publications == []
    assert {recovered.position.top for recovered in known.values()} == {top}


def test_writer_batches_are_deleted_after_an_hour() -> None:
    old = WriterBatch.objects.create(created_at=timezone.now() - timedelta(minutes=61))
    young = WriterBatch.objects.create(created_at=timezone.now() - timedelta(minutes=59))

    count = maintenance.prune_writer_batches()

    assert count == 1
    assert [exists(row) for row in (old, young)] == [False, True]


def test_many_rows_are_deleted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_SLICE", 2)
    then = timezone.now() - timedelta(days=1)
    WriterBatch.objects.bulk_create(WriterBatch(created_at=then) for _ in range(5))

    assert maintenance.prune_writer_batches() == 5


def test_every_job_runs_on_an_empty_database() -> None:
    assert {job() for job in maintenance.jobs().values()} == {0}
