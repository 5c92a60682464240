"""Ringing: who may, who hears of it, and that phones ring at once or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from models import limits, streams
from models.conversation import Conversation, Member
from models.deliveries import Kind
from models.device import Device
from models.errors import (
    ConversationNotFound,
    DataTooLarge,
    DirectBlocked,
    InvalidInput,
    TooManyRequests,
    TooManyToRing,
    WrongConversationKind,
)
from models.events import Publication
from models.notification import Notification, PushCursor
from models.operations import calls, conversations, users
from models.payloads import ConversationPayload
from models.user import Block, User
from push.planner import Planner, Schedule
from push.providers.memory import MemoryProvider
from tests import factories
from tests.push.scene import make_phone, make_worker, states, work

pytestmark = pytest.mark.django_db(transaction=True)


class Scene:
    """Ann rings Bea, in a group of the two; both have a phone."""

    def __init__(self) -> None:
        self.ann, self.bea = factories.make_user("Ann"), factories.make_user("Bea")
        self.anns_phone, self.beas_phone = make_phone(self.ann), make_phone(self.bea)
        self.group = factories.make_group(self.ann, self.bea)
        self.provider = MemoryProvider()
        # What was written about the making of the group is not what is tested.
        Notification.objects.all().delete()

    def ring(self, call_id: str = "call-1", **fields: Any) -> None:
        calls.ring(actor=self.ann.id, conversation_id=self.group.id, call_id=call_id, **fields)

    def work(self, **options: Any) -> None:
        work(make_worker(self.provider, **options))


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def heard() -> Iterator[list[Publication]]:
    """What is published meanwhile."""
    found: list[Publication] = []
    hear_no_more = streams.on_publish(found.extend)
    yield found
    hear_no_more()


def test_the_others_phones_ring_at_once(scene: Scene) -> None:
    scene.ring(data={"room": "r-1"})
    scene.work(connected=lambda device_ids: device_ids, grace_seconds=300.0)

    (push,) = scene.provider.sent
    assert (push.kind, push.target, push.title, push.category) == (
        Kind.CALL,
        scene.beas_phone.target,
        "Ann",
        "call",
    )
    assert 0 < push.ttl_seconds <= limits.CALL_SECONDS
    assert push.data["call"] == "call-1"
    assert push.data["sender"] == str(scene.ann.id)
    assert json.loads(push.data["data"]) == {"room": "r-1"}
    assert states() == [("sent", "")]
    assert not PushCursor.objects.exists()


def test_open_apps_are_told(scene: Scene, heard: list[Publication]) -> None:
    scene.ring(data={"room": "r-1"})

    (publication,) = heard
    assert (publication.channel, publication.offset) == (scene.group.channel, 0)
    assert json.loads(publication.data) == {
        "type": "call.ringing",
        "conversation": str(scene.group.id),
        "user": str(scene.ann.id),
        "call": "call-1",
        "data": {"room": "r-1"},
        "expires_in": limits.CALL_SECONDS,
    }


def test_ringing_again_changes_nothing(scene: Scene, heard: list[Publication]) -> None:
    scene.ring()
    scene.ring(data={"other": True})
    scene.work()
    scene.ring()
    scene.work()

    assert len(scene.provider.sent) == 1
    assert len(heard) == 1


def test_two_calls_are_not_merged(scene: Scene) -> None:
    scene.ring("call-1")
    scene.ring("call-2")
    scene.work()

    assert sorted(push.data["call"] for push in scene.provider.sent) == ["call-1", "call-2"]
    assert len({push.collapse for push in scene.provider.sent}) == 2


def test_a_call_is_dropped_when_nobody_rings_any_more(scene: Scene) -> None:
    scene.ring()
    Notification.objects.update(created_at=timezone.now() - timedelta(seconds=limits.CALL_SECONDS + 1))

    scene.work()

    assert scene.provider.tries == []
    assert states() == [("dropped", "expired")]


def be_quiet(bea: User, ann: User) -> None:
    now = timezone.now()
    start, end = (now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time()
    User.objects.filter(id=bea.id).update(quiet_from=start, quiet_until=end, time_zone="UTC")


def block(bea: User, ann: User) -> None:
    Block.objects.create(blocker=bea, blocked=ann)


@pytest.mark.parametrize(("change", "reason"), [(be_quiet, "quiet_hours"), (block, "sender_blocked")])
def test_a_call_is_dropped(scene: Scene, change: Any, reason: str) -> None:
    change(scene.bea, scene.ann)

    scene.ring()
    scene.work()

    assert scene.provider.tries == []
    assert states() == [("dropped", reason)]


def test_nobody_is_rung_who_wants_no_notifications(scene: Scene) -> None:
    Member.objects.filter(user=scene.bea).update(notification_level="none")

    scene.ring()
    scene.work()

    assert scene.provider.tries == []
    assert states() == []


def test_notifications_that_are_switched_off_meanwhile_stop_a_call(scene: Scene) -> None:
    scene.ring()
    schedule = Schedule(default_provider="memory", grace_seconds=0, active_elsewhere_seconds=0, ttl_seconds=3600)
    asyncio.run(Planner(schedule, lambda device_ids: ()).plan_due())
    Member.objects.filter(user=scene.bea).update(notification_level="none")

    scene.work()

    assert scene.provider.tries == []
    assert states() == [("dropped", "notifications_off")]


@pytest.mark.parametrize(
    "settings",
    [{"muted_until": timezone.now() + timedelta(days=1)}, {"notification_level": "mentions"}, {"joined_seq": 99}],
    ids=lambda fields: next(iter(fields)),
)
def test_it_rings_all_the_same(scene: Scene, settings: dict[str, Any]) -> None:
    Member.objects.filter(user=scene.bea).update(**settings)

    scene.ring()
    scene.work()

    assert [push.kind for push in scene.provider.sent] == [Kind.CALL]


# --- who may


def direct(one: User, other: User) -> ConversationPayload:
    return factories.make_direct(one, other)


@pytest.mark.parametrize("blocker", ["ann", "bea"])
def test_a_block_stops_calls_of_the_two(scene: Scene, blocker: str) -> None:
    pair = direct(scene.ann, scene.bea)
    one, other = (scene.ann, scene.bea) if blocker == "ann" else (scene.bea, scene.ann)
    users.block(actor=one.id, user_id=other.id)

    with pytest.raises(DirectBlocked):
        calls.ring(actor=scene.ann.id, conversation_id=pair.id, call_id="call-1")

    assert not Notification.objects.exists()


def test_outsiders_ring_nobody(scene: Scene) -> None:
    with pytest.raises(ConversationNotFound):
        calls.ring(actor=factories.make_user("Cleo").id, conversation_id=scene.group.id, call_id="call-1")


def test_feeds_are_not_rung(scene: Scene) -> None:
    feed = conversations.create_feed(actor=scene.ann.id, title="News")

    with pytest.raises(WrongConversationKind):
        calls.ring(actor=scene.ann.id, conversation_id=feed.id, call_id="call-1")


def test_crowds_are_not_rung(scene: Scene) -> None:
    Conversation.objects.filter(id=scene.group.id).update(member_count=limits.MAX_MEMBERS_TO_RING + 1)

    with pytest.raises(TooManyToRing):
        scene.ring()


def test_rings_are_limited(scene: Scene) -> None:
    for number in range(limits.MAX_CALLS_A_MINUTE):
        scene.ring(f"call-{number}")

    with pytest.raises(TooManyRequests):
        scene.ring("call-too-many")
    # One that is known costs nothing.
    scene.ring("call-0")

    Notification.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    scene.ring("call-too-many")
    assert Notification.objects.count() == limits.MAX_CALLS_A_MINUTE + 1


def test_what_is_said_about_a_call_fits_into_a_push(scene: Scene) -> None:
    scene.ring("fits", data={"x": "é" * 500})

    with pytest.raises(DataTooLarge):
        scene.ring("too-big", data={"x": "é" * 600})
    for call_id in ("", "x" * 65, "a\0b"):
        with pytest.raises(InvalidInput):
            scene.ring(call_id)


def test_every_phone_of_somebody_rings(scene: Scene) -> None:
    Device.objects.filter(id=scene.anns_phone.id).update(user=scene.bea)

    scene.ring()
    scene.work()

    targets = {scene.anns_phone.target, scene.beas_phone.target}
    assert {push.target for push in scene.provider.sent} == targets
    assert len({push.push_id for push in scene.provider.sent}) == len(targets)
