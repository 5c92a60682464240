"""Why a push did not arrive: each decision with its reason, and never a word about where pushes go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models import payloads
from models.conversation import Member
from models.device import Device
from models.errors import MessageNotFound
from models.message import Message
from models.notification import Delivery, Notification, PushCursor
from models.operations import messages, pushes, sessions
from models.payloads import DevicePushes
from models.queries.pushes import get_push, of_message
from models.reasons import REASONS, SENT
from models.user import Block, User
from push.planner import Planner, Schedule
from push.providers.base import Outcome, Verdict
from push.providers.memory import MemoryProvider
from tests import factories
from tests.push.scene import acknowledge, make_conversation, make_person, make_phone, make_worker, read, work, write

pytestmark = pytest.mark.django_db(transaction=True)


class Scene:
    """Ann has written to Bea, whose phone can be reached."""

    def __init__(self) -> None:
        self.ann, self.bea = make_person("Ann"), make_person("Bea")
        self.anns_phone, self.beas_phone = make_phone(self.ann), make_phone(self.bea, name="Bea's phone")
        self.group = make_conversation(self.ann, self.bea)
        self.message = write(self.group, self.ann)
        self.provider = MemoryProvider()

    def work(self) -> None:
        work(make_worker(self.provider))

    def answer(self, user: User | None = None, message: Message | None = None) -> DevicePushes:
        """What is said about the only device of somebody, Bea if nobody else."""
        asked = of_message(actor=(user or self.bea).id, message_id=(message or self.message).id)
        (device,) = asked.devices
        return device

    def plan(self) -> PushCursor:
        """Bring the message to Bea's cursor, where nobody sends it."""
        schedule = Schedule(default_provider="memory", grace_seconds=0, active_elsewhere_seconds=0, ttl_seconds=3600)
        asyncio.run(Planner(schedule, lambda device_ids: ()).plan_due())
        cursor: PushCursor = PushCursor.objects.get(conversation=self.group)
        return cursor


@pytest.fixture
def scene() -> Scene:
    return Scene()


def in_short(answer: DevicePushes) -> tuple[str, str, str]:
    return answer.decision, answer.reason, answer.explanation


def test_what_was_sent_is_told_with_tries_and_receipts(scene: Scene) -> None:
    scene.provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.RETRY, "http_503", retry_after=0.0)]
    scene.work()
    push_id = scene.provider.sent[0].push_id
    pushes.report(actor=scene.bea.id, device_id=scene.beas_phone.id, push_id=push_id, event="displayed")

    answer = scene.answer()

    assert in_short(answer) == ("sent", "", SENT)
    assert (answer.device, answer.name, answer.platform) == (scene.beas_phone.id, "Bea's phone", "android")
    assert answer.push_id == push_id
    (push,) = answer.pushes
    assert [entry.code for entry in push.tries] == ["http_503", "sent"]
    assert push.conversations == [scene.group.id]
    assert push.received_at is not None
    assert push.displayed_at is not None
    assert push.opened_at is None
    assert scene.beas_phone.target not in payloads.to_json(answer).decode()


def test_what_waits_says_until_when(scene: Scene) -> None:
    cursor = scene.plan()

    answer = scene.answer()

    assert in_short(answer) == ("waiting", "scheduled", REASONS["scheduled"])
    assert answer.not_before == cursor.not_before


def test_what_was_tried_in_vain_waits_with_the_providers_answer(scene: Scene) -> None:
    outcome = Outcome(Verdict.RETRY, "http_503", retry_after=600.0, answer="Service Unavailable")
    scene.provider.outcomes[scene.beas_phone.target] = [outcome]
    work(make_worker(scene.provider), until=Delivery.objects.exists)

    answer = scene.answer()

    assert answer.decision == "waiting"
    assert answer.reason == "http_503"
    assert answer.explanation == "The provider could not take it yet."
    assert answer.not_before is not None
    assert answer.not_before - timezone.now() > timedelta(minutes=5)
    assert [(push.state, push.answer) for push in answer.pushes] == [("waiting", "Service Unavailable")]


def test_what_nobody_tries_any_more_has_expired(scene: Scene) -> None:
    scene.provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.RETRY, "http_503", retry_after=600.0)]
    work(make_worker(scene.provider), until=Delivery.objects.exists)
    PushCursor.objects.update(not_before=None, push_id=None, pending_seq=0, first_seq=0)

    assert in_short(scene.answer()) == ("dropped", "expired", REASONS["expired"])


def test_what_is_dead_says_so_until_it_is_sent_again(scene: Scene) -> None:
    scene.provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")]
    scene.work()
    dead = scene.answer()
    pushes.send_again(delivery_ids=[Delivery.objects.get().id])
    waiting = scene.answer()
    scene.work()

    assert in_short(dead) == ("dead", "400_INVALID_ARGUMENT", "The provider will never take it.")
    assert (waiting.decision, waiting.reason) == ("waiting", "scheduled")
    assert [push.state for push in scene.answer().pushes] == ["dead", "sent"]
    assert scene.answer().decision == "sent"


def test_a_target_that_is_gone_is_told(scene: Scene) -> None:
    scene.provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.TARGET_GONE, "404_UNREGISTERED")]
    scene.work()

    decision, reason, explanation = in_short(scene.answer())

    assert (decision, reason) == ("dropped", "404_UNREGISTERED")
    assert explanation == "The provider does not know the device's push target any more."


def delete(scene: Scene) -> None:
    Message.objects.update(deleted_at=timezone.now(), text=None)


def mute(scene: Scene) -> None:
    Member.objects.filter(user=scene.bea).update(muted_until=timezone.now() + timedelta(days=1))


def want_mentions(scene: Scene) -> None:
    Member.objects.filter(user=scene.bea).update(notification_level="mentions")


def block(scene: Scene) -> None:
    Block.objects.create(blocker=scene.bea, blocked=scene.ann)


def read_it(scene: Scene) -> None:
    read(scene.bea, scene.message)


def get_it(scene: Scene) -> None:
    acknowledge(scene.beas_phone, scene.message)


def forget_the_target(scene: Scene) -> None:
    Device.objects.filter(id=scene.beas_phone.id).update(target="")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (delete, "message_deleted"),
        (mute, "muted"),
        (want_mentions, "mentions_only"),
        (block, "sender_blocked"),
        (read_it, "read"),
        (get_it, "acknowledged"),
        (forget_the_target, "no_push_target"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_dropped_says_by_which_rule(scene: Scene, change: Callable[[Scene], None], reason: str) -> None:
    scene.plan()
    change(scene)
    scene.work()

    answer = scene.answer()

    assert in_short(answer) == ("dropped", reason, REASONS[reason])
    assert [push.reason for push in answer.pushes] == [reason]


# --- what was never planned


def off(scene: Scene) -> None:
    Member.objects.filter(user=scene.bea).update(notification_level="none")


def come_later(scene: Scene) -> None:
    Member.objects.filter(user=scene.bea).update(joined_seq=1)
    scene.group.shows_history_to_new_members = True
    scene.group.save()


def become_system(scene: Scene) -> None:
    Message.objects.update(kind="system")
    Notification.objects.all().delete()


def register_later(scene: Scene) -> None:
    scene.beas_phone.delete()
    scene.work()
    make_phone(scene.bea)


def be_forgotten(scene: Scene) -> None:
    Notification.objects.all().delete()
    Device.objects.update(created_at=timezone.now() - timedelta(days=30))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (off, "notifications_off"),
        (come_later, "not_a_member"),
        (become_system, "system_message"),
        (forget_the_target, "no_push_target"),
        (register_later, "registered_later"),
        (be_forgotten, "no_record"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_not_planned_says_why(scene: Scene, change: Callable[[Scene], None], reason: str) -> None:
    change(scene)
    scene.work()

    answer = scene.answer()

    assert in_short(answer) == ("not_planned", reason, REASONS[reason])
    assert (answer.push_id, answer.pushes) == (None, [])


def test_nobody_is_told_of_what_they_wrote(scene: Scene) -> None:
    scene.work()

    assert in_short(scene.answer(scene.ann)) == ("not_planned", "own_message", REASONS["own_message"])


def test_a_device_that_is_logged_out_gets_none() -> None:
    ann, bea = factories.make_user("Ann"), factories.make_user("Bea")
    session = factories.make_session(bea).session
    message_id = factories.send(ann, factories.make_group(ann, bea))
    sessions.revoke_session(actor=bea.id, session_id=session.id)

    (answer,) = of_message(actor=bea.id, message_id=message_id).devices

    assert (answer.decision, answer.reason) == ("not_planned", "logged_out")


def test_what_no_worker_has_seen_waits(scene: Scene) -> None:
    answer = scene.answer()

    assert in_short(answer) == ("waiting", "not_planned_yet", REASONS["not_planned_yet"])


# --- what is not about this message


def test_a_push_tells_of_all_the_messages_that_it_gathered(scene: Scene) -> None:
    second = write(scene.group, scene.ann, "and more")
    scene.work()
    third = write(scene.group, scene.ann, "and yet more")

    first_push, second_push = scene.answer().push_id, scene.answer(message=second).push_id

    assert first_push == second_push == scene.provider.sent[0].push_id
    assert scene.answer(message=third).decision == "waiting"


def test_a_summary_tells_of_messages_in_several_conversations(scene: Scene) -> None:
    other = make_conversation(scene.ann, scene.bea)
    second = write(other, scene.ann, "and there")
    scene.plan()
    PushCursor.objects.update(is_deferred=True)
    assert (scene.answer().decision, scene.answer().reason) == ("waiting", "quiet_hours")
    scene.work()

    (summary,) = scene.provider.sent
    shown = get_push(actor=scene.bea.id, push_id=summary.push_id)

    assert scene.answer().push_id == scene.answer(message=second).push_id == summary.push_id
    assert (shown.kind, sorted(shown.conversations)) == ("summary", sorted([scene.group.id, other.id]))


def test_calls_and_tests_are_about_no_message(scene: Scene) -> None:
    scene.work()
    Delivery.objects.update(kind="call")

    assert scene.answer().pushes == []


def test_an_edit_adds_its_own_push(scene: Scene) -> None:
    scene.work()
    stream = factories.make_group(scene.ann, scene.bea)
    message_id = factories.send(scene.ann, stream)
    scene.work()
    messages.edit_message(actor=scene.ann.id, message_id=message_id, text="better")
    PushCursor.objects.update(sent_at=None)
    scene.work()

    answer = scene.answer(message=Message.objects.get(id=message_id))

    assert [(push.kind, push.state) for push in answer.pushes] == [("alert", "sent"), ("revision", "sent")]


def test_outsiders_learn_nothing(scene: Scene) -> None:
    for actor, message_id in ((make_person("Cleo").id, scene.message.id), (scene.bea.id, uuid4())):
        with pytest.raises(MessageNotFound):
            of_message(actor=actor, message_id=message_id)


def test_it_costs_the_same_however_many_devices_there_are(scene: Scene) -> None:
    scene.work()
    with CaptureQueriesContext(connection) as one:
        scene.answer()
    for _ in range(5):
        make_phone(scene.bea)
    with CaptureQueriesContext(connection) as many:
        asked = of_message(actor=scene.bea.id, message_id=scene.message.id)

    assert len(asked.devices) == 6
    assert len(one) == len(many)
