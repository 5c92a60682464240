"""What is told of queues and receipts, and that it costs the same on a long table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from models.device import Device
from models.notification import Delivery, Notification, PushCursor
from models.queries import push_figures
from models.queries.push_figures import Queue
from tests.push.scene import make_conversation, make_person, make_phone, write

pytestmark = pytest.mark.django_db


def delivered(device: Device, **fields: Any) -> Delivery:
    values = {
        "push_id": uuid4(),
        "device_id": device.id,
        "user_id": device.user_id,
        "conversation_id": uuid4(),
        "kind": "alert",
        "provider": "memory",
        "state": "sent",
        "finished_at": timezone.now() - timedelta(minutes=10),
    }
    return Delivery.objects.create(**values | fields)


def wait_for(device: Device, seconds: float, **fields: Any) -> None:
    """Let something wait for this device that has been due for so many seconds."""
    PushCursor.objects.create(
        device=device,
        conversation_id=make_conversation(device.user).id,
        user_id=device.user_id,
        not_before=timezone.now() - timedelta(seconds=seconds),
        **{"provider": "memory", **fields},
    )


def test_queues_are_told_apart() -> None:
    phone = make_phone(make_person("Bea"))
    wait_for(phone, 30)
    wait_for(phone, 20)
    wait_for(phone, -60)
    wait_for(phone, 500, leased_until=timezone.now() + timedelta(seconds=60))
    wait_for(phone, 900, provider="another")

    found = push_figures.queues(["memory", "idle"])

    assert found["idle"] == Queue(0, 0, 0.0)
    assert (found["memory"].due, found["memory"].later) == (2, 1)
    assert found["memory"].oldest_seconds == pytest.approx(30, abs=5)
    assert set(found) == {"memory", "idle"}


def test_a_long_queue_is_counted_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_figures, "MAX_COUNTED", 3)
    phone = make_phone(make_person("Bea"))
    for _ in range(5):
        wait_for(phone, 1)
        wait_for(phone, -60)

    assert push_figures.queues(["memory"])["memory"][:2] == (3, 3)


def test_the_outbox_is_as_old_as_its_oldest_message() -> None:
    assert push_figures.outbox() == (0, 0.0)
    ann = make_person("Ann")
    group = make_conversation(ann)
    write(group, ann)
    write(group, ann)
    write(group, ann)
    Notification.objects.filter(seq=1).update(planned_at=timezone.now())
    Notification.objects.filter(seq=2).update(created_at=timezone.now() - timedelta(seconds=50))

    waiting, oldest_seconds = push_figures.outbox()

    assert waiting == 2
    assert oldest_seconds == pytest.approx(50, abs=5)


def test_receipts_are_told_by_platform() -> None:
    bea = make_person("Bea")
    android, iphone = make_phone(bea), make_phone(bea, platform="ios")
    sent_at = timezone.now() - timedelta(minutes=10)
    for seconds in (1, 2, 9):
        delivered(android, finished_at=sent_at, received_at=sent_at + timedelta(seconds=seconds))
    seen = sent_at + timedelta(seconds=4)
    delivered(android, finished_at=sent_at, received_at=seen, displayed_at=seen, opened_at=seen + timedelta(seconds=60))
    delivered(iphone)
    delivered(iphone, state="dropped", received_at=seen)
    Delivery.objects.filter(id=delivered(iphone).id).update(created_at=timezone.now() - timedelta(days=2))

    by_platform = {receipts.platform: receipts for receipts in push_figures.receipts()}

    assert set(by_platform) == {"android", "ios"}
    assert by_platform["android"][1:] == (4, 4, 1, 1, 3.0, 4.0, 64.0)
    assert by_platform["ios"][1:] == (1, 0, 0, 0, None, None, None)
    assert by_platform["android"].received_ratio == 1.0
    assert by_platform["android"].opened_ratio == 0.25


def test_a_receipt_from_before_our_commit_took_no_time() -> None:
    sent_at = timezone.now()
    delivered(make_phone(make_person("Bea")), finished_at=sent_at, received_at=sent_at - timedelta(seconds=1))

    assert push_figures.receipts()[0].received_seconds == 0.0


def test_of_a_long_table_a_sample_stands_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    phone = make_phone(make_person("Bea"))
    some = delivered(phone)
    fields = {field.name: getattr(some, field.name) for field in Delivery._meta.fields}
    now = timezone.now()
    copies = [
        Delivery(**fields | {"id": uuid4(), "push_id": uuid4(), "received_at": now if number % 2 else None})
        for number in range(6_000)
    ]
    Delivery.objects.bulk_create(copies)
    whole = push_figures.receipts()[0]
    monkeypatch.setattr(push_figures, "MAX_BLOCKS", 60)

    sample = push_figures.receipts()[0]

    assert (whole.sent, whole.received) == (6_001, 3_000)
    # Which blocks they are is chance: 60 of some 150 are far from all, and far from none.
    assert sample.sent != whole.sent
    assert 3_000 < sample.sent < 9_000
    assert 0.4 < sample.received_ratio < 0.6
