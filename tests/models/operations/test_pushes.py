"""What apps and operators do to pushes: receipts, tests, sending again; and that an ended log-in ends its pushes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone

from models import limits
from models.conversation import Member
from models.deliveries import NO_CONVERSATION, Kind
from models.device import Device
from models.errors import DeviceNotFound, InvalidInput, NoPushTarget, PushNotFound, TooManyRequests
from models.ids import new_id
from models.message import Message
from models.notification import Delivery, Notification, PushCursor
from models.operations import devices, maintenance, pushes, sessions, users
from models.queries.pushes import get_push
from models.user import User
from push.providers.base import Outcome, Verdict
from push.providers.memory import MemoryProvider
from tests import factories
from tests.push.scene import make_conversation, make_person, make_phone, make_worker, states, work, write

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ann() -> User:
    return make_person("Ann")


@pytest.fixture
def phone(ann: User) -> Device:
    return make_phone(ann, push_provider="memory")


def make_delivery(device: Device, **fields: object) -> Delivery:
    values = {
        "push_id": new_id(),
        "conversation_id": new_id(),
        "kind": "alert",
        "first_seq": 1,
        "seq": 1,
        "provider": "memory",
        "state": "sent",
        **fields,
    }
    return Delivery.objects.create(device_id=device.id, user_id=device.user_id, **values)


def told(row: Delivery) -> list[bool]:
    row.refresh_from_db()
    return [moment is not None for moment in (row.received_at, row.displayed_at, row.opened_at)]


def report(device: Device, push_id: UUID, event: str) -> None:
    pushes.report(actor=device.user_id, device_id=device.id, push_id=push_id, event=event)


# --- receipts


@pytest.mark.parametrize(
    ("event", "steps"),
    [("received", [True, False, False]), ("displayed", [True, True, False]), ("opened", [True, True, True])],
)
def test_a_receipt_implies_the_ones_before_it(phone: Device, event: str, steps: list[bool]) -> None:
    row = make_delivery(phone)

    report(phone, row.push_id, event)

    assert told(row) == steps


def test_the_first_receipt_counts(phone: Device) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    row = make_delivery(phone, received_at=long_ago)

    report(phone, row.push_id, "displayed")
    report(phone, row.push_id, "received")

    row.refresh_from_db()
    assert row.received_at == long_ago
    assert row.displayed_at is not None
    assert row.displayed_at > long_ago


def test_a_summary_is_received_in_all_its_conversations(phone: Device) -> None:
    first = make_delivery(phone, kind="summary")
    second = make_delivery(phone, kind="summary", push_id=first.push_id)

    report(phone, first.push_id, "opened")

    assert told(first) == told(second) == [True, True, True]


def test_nobody_reports_for_another_device(ann: User, phone: Device) -> None:
    row = make_delivery(phone)
    other = make_phone(ann)

    for actor, device_id in ((ann.id, other.id), (ann.id, None), (make_person("Bea").id, phone.id)):
        with pytest.raises(PushNotFound):
            pushes.report(actor=actor, device_id=device_id, push_id=row.push_id, event="received")

    assert told(row) == [False, False, False]


def test_only_known_events_are_reported(phone: Device) -> None:
    row = make_delivery(phone)

    with pytest.raises(InvalidInput):
        report(phone, row.push_id, "swallowed")


def test_a_phone_that_is_faster_than_the_worker_is_heard(phone: Device) -> None:
    push = pushes.send_test(actor=phone.user_id, device_id=phone.id)

    report(phone, push.push_id, "received")
    work(make_worker(MemoryProvider()))

    row = Delivery.objects.get(push_id=push.push_id)
    assert row.state == "sent"
    assert told(row) == [True, False, False]


# --- a push to see whether any arrives


def test_a_test_is_sent_and_its_fate_is_known(phone: Device) -> None:
    provider = MemoryProvider()

    asked = pushes.send_test(actor=phone.user_id, device_id=phone.id)
    before = get_push(actor=phone.user_id, push_id=asked.push_id)
    work(make_worker(provider))
    after = get_push(actor=phone.user_id, push_id=asked.push_id)

    assert (asked.state, asked.kind, asked.conversations) == ("waiting", "test", [])
    assert before == asked
    assert [(push.push_id, push.kind, push.target) for push in provider.sent] == [
        (asked.push_id, Kind.TEST, phone.target)
    ]
    assert "conversation" not in provider.sent[0].data
    assert (after.state, after.kind, after.conversations) == ("sent", "test", [])
    assert [entry.code for entry in after.tries] == ["sent"]
    assert not PushCursor.objects.filter(conversation_id=NO_CONVERSATION).exists()


def test_a_refused_test_says_what_the_provider_said(phone: Device) -> None:
    provider = MemoryProvider()
    provider.outcomes[phone.target] = [Outcome(Verdict.REJECTED, "400_BadTopic", answer="BadTopic")]

    asked = pushes.send_test(actor=phone.user_id, device_id=phone.id)
    work(make_worker(provider))

    push = get_push(actor=phone.user_id, push_id=asked.push_id)
    assert (push.state, push.reason, push.answer) == ("dead", "400_BadTopic", "BadTopic")


def test_a_test_needs_a_device_of_ones_own_with_a_target(ann: User, phone: Device) -> None:
    with pytest.raises(DeviceNotFound):
        pushes.send_test(actor=make_person("Bea").id, device_id=phone.id)
    with pytest.raises(DeviceNotFound):
        pushes.send_test(actor=ann.id, device_id=new_id())
    with pytest.raises(NoPushTarget):
        pushes.send_test(actor=ann.id, device_id=make_phone(ann, target="").id)


def test_tests_are_some_seconds_apart(phone: Device) -> None:
    pushes.send_test(actor=phone.user_id, device_id=phone.id)
    with pytest.raises(TooManyRequests) as waiting:
        pushes.send_test(actor=phone.user_id, device_id=phone.id)
    work(make_worker(MemoryProvider()))
    with pytest.raises(TooManyRequests) as sent:
        pushes.send_test(actor=phone.user_id, device_id=phone.id)

    for refused in (waiting, sent):
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= limits.PUSH_TEST_EVERY_SECONDS

    # The clock moves instead of the test.
    Delivery.objects.update(created_at=timezone.now() - timedelta(seconds=limits.PUSH_TEST_EVERY_SECONDS))
    assert pushes.send_test(actor=phone.user_id, device_id=phone.id).state == "waiting"


def test_the_row_of_a_test_that_nobody_could_send_is_deleted(phone: Device) -> None:
    pushes.send_test(actor=phone.user_id, device_id=phone.id)
    PushCursor.objects.update(expires_at=timezone.now() - timedelta(hours=2))

    assert maintenance.expire_pushes() == 1
    assert not PushCursor.objects.exists()


def test_a_push_is_shown_to_its_user_alone(phone: Device) -> None:
    push = pushes.send_test(actor=phone.user_id, device_id=phone.id)
    row = make_delivery(phone)
    bea = make_person("Bea")

    for push_id in (push.push_id, row.push_id, new_id()):
        with pytest.raises(PushNotFound):
            get_push(actor=bea.id, push_id=push_id)


# --- sending again


def dead_push() -> tuple[Device, Delivery]:
    """Bea's phone, and the push that its provider would not take."""
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = make_phone(bea)
    write(make_conversation(ann, bea), ann)
    provider = MemoryProvider()
    provider.outcomes[phone.target] = [Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")]
    work(make_worker(provider))
    return phone, Delivery.objects.get(state="dead")


def test_what_is_dead_is_sent_again() -> None:
    phone, dead = dead_push()
    provider = MemoryProvider()

    assert pushes.send_again(delivery_ids=[dead.id]) == 1
    cursor = PushCursor.objects.get(device=phone)
    work(make_worker(provider))

    assert (cursor.first_seq, cursor.pending_seq, cursor.attempts) == (1, 1, 0)
    assert cursor.expires_at is not None
    assert timedelta(minutes=59) < cursor.expires_at - timezone.now()
    assert [push.body for push in provider.sent] == ["Ann: hello"]
    assert states() == [("dead", "400_INVALID_ARGUMENT"), ("sent", "")]


def test_only_members_are_sent_it_again() -> None:
    _, dead = dead_push()
    Member.objects.filter(user=dead.user_id).delete()

    assert pushes.send_again(delivery_ids=[dead.id]) == 0


@pytest.mark.parametrize("fields", [{"state": "sent"}, {"state": "dropped"}, {"kind": "call"}, {"kind": "test"}])
def test_only_what_is_dead_and_about_messages_is_sent_again(fields: dict[str, str]) -> None:
    _, dead = dead_push()
    Delivery.objects.filter(id=dead.id).update(**fields)

    assert pushes.send_again(delivery_ids=[dead.id]) == 0
    assert not PushCursor.objects.filter(not_before__isnull=False).exists()


# --- the end of a log-in ends what is on its way


def pending_push() -> Device:
    """Bea's phone, logged in, with a push that is due."""
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = factories.make_session(bea).session.device
    devices.register(actor=bea.id, device_id=phone.id, platform="android", push_provider="memory", target="bea")
    group = factories.make_group(ann, bea)
    message = Message.objects.get(id=factories.send(ann, group))
    Notification.objects.update(planned_at=timezone.now())
    PushCursor.objects.create(
        device=phone,
        conversation_id=group.id,
        user_id=bea.id,
        provider="memory",
        first_seq=message.seq,
        pending_seq=message.seq,
        not_before=timezone.now(),
        expires_at=timezone.now() + timedelta(hours=1),
    )
    return phone


def log_out(phone: Device) -> None:
    sessions.revoke_session(actor=phone.user_id, session_id=phone.session.id)


def log_out_everywhere(phone: Device) -> None:
    sessions.revoke_all(actor=phone.user_id)


def log_in_anew(phone: Device) -> None:
    Device.objects.filter(id=phone.id).update(install_id="one")
    sessions.open_session(user_id=phone.user_id, install_id="one")


def remove_the_device(phone: Device) -> None:
    devices.remove(actor=phone.user_id, device_id=phone.id)


def close_the_account(phone: Device) -> None:
    users.delete_account(actor=phone.user_id)


def give_the_phone_away(phone: Device) -> None:
    other = factories.make_session(make_person("Cleo")).session
    devices.register(actor=other.user_id, device_id=other.device_id, push_provider="memory", target="bea")


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (log_out, [("dropped", "logged_out")]),
        (log_out_everywhere, [("dropped", "logged_out")]),
        (log_in_anew, [("dropped", "no_push_target")]),
        (remove_the_device, []),
        (close_the_account, []),
        (give_the_phone_away, [("dropped", "no_push_target")]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_reaches_a_phone_that_is_logged_out(end: Callable[[Device], None], left: list[tuple[str, str]]) -> None:
    phone = pending_push()
    provider = MemoryProvider()

    end(phone)
    work(make_worker(provider))

    assert provider.tries == []
    assert states() == left
