"""The push loop on the real database: who is woken, when, and what an outcome leads to."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from django.db import OperationalError
from django.utils import timezone

from models import threads
from models.conversation import Conversation, Member
from models.deliveries import DuePush, Kind, Planned, Result, State
from models.device import Device, Session
from models.message import Message
from models.notification import Delivery, Notification, PushCursor
from models.operations import notifications as operations
from models.user import Block, User
from push import backoff, courier, planner, recorder, sender, worker
from push.payload import Look, Push, render
from push.planner import Planner, Schedule
from push.providers.base import Outcome, Verdict
from push.providers.memory import MemoryProvider
from tests.push.scene import (
    acknowledge,
    make_conversation,
    make_person,
    make_phone,
    make_worker,
    nothing_is_pending,
    states,
    work,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Scene:
    """Ann and Bea in a group, each with a phone; Ann has just written."""

    def __init__(self) -> None:
        self.ann, self.bea = make_person("Ann"), make_person("Bea")
        self.anns_phone, self.beas_phone = make_phone(self.ann), make_phone(self.bea)
        self.group = make_conversation(self.ann, self.bea)
        self.message = write(self.group, self.ann)

    @property
    def beas_membership(self) -> Any:
        return Member.objects.filter(conversation=self.group, user=self.bea)

    @property
    def beas_device(self) -> Any:
        return Device.objects.filter(id=self.beas_phone.id)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


def plan(connected: Callable[[Sequence[UUID]], Any] = lambda device_ids: ()) -> None:
    """Plan what is in the outbox and send nothing."""
    schedule = Schedule(default_provider="memory", grace_seconds=5, active_elsewhere_seconds=10, ttl_seconds=3600)
    asyncio.run(Planner(schedule, connected).plan_due())


def make_due() -> None:
    """Let the time pass that pushes wait for."""
    PushCursor.objects.filter(not_before__isnull=False).update(not_before=timezone.now())


def crowd(scene: Scene, count: int) -> list[str]:
    """So many people with a phone, to each of whom Ann writes; return the phones' targets."""
    phones = [make_phone(make_person(f"Guest{number}")) for number in range(count)]
    for phone in phones:
        write(make_conversation(scene.ann, phone.user), scene.ann)
    return [phone.target for phone in phones]


class Scripted(MemoryProvider):
    """Answers the first pushes with these outcomes, whoever they are for."""

    def __init__(self, *script: Outcome, concurrency: int = 8) -> None:
        super().__init__(concurrency=concurrency)
        self._script = list(script)

    async def deliver(self, push: Push) -> Outcome:
        if self._script:
            self.outcomes[push.target] = [self._script.pop(0)]
        return await super().deliver(push)


# --- who and when


def test_wakes_the_phones_of_the_others(scene: Scene, provider: MemoryProvider) -> None:
    second = make_phone(scene.bea, platform="ios")

    work(make_worker(provider))

    assert {push.target for push in provider.sent} == {scene.beas_phone.target, second.target}
    assert {(push.title, push.body) for push in provider.sent} == {("Climbing", "Ann: hello")}
    assert states() == [("sent", ""), ("sent", "")]


def test_a_device_without_a_target_is_not_woken(scene: Scene, provider: MemoryProvider) -> None:
    scene.beas_device.update(target="")

    work(make_worker(provider))

    assert not PushCursor.objects.exists()


def test_who_joined_after_the_message_is_not_woken(scene: Scene, provider: MemoryProvider) -> None:
    scene.beas_membership.update(joined_seq=scene.message.seq)

    work(make_worker(provider))

    assert not PushCursor.objects.exists()


def test_a_device_without_a_socket_is_due_at_once(scene: Scene) -> None:
    plan(connected=lambda device_ids: ())

    cursor, notification = PushCursor.objects.get(), Notification.objects.get()
    assert cursor.not_before == notification.created_at


def test_a_device_with_a_live_socket_is_due_after_its_grace(scene: Scene) -> None:
    plan(connected=lambda device_ids: list(device_ids))

    cursor, notification = PushCursor.objects.get(), Notification.objects.get()
    assert cursor.not_before == notification.created_at + timedelta(seconds=5)


def test_only_the_connected_device_waits(scene: Scene) -> None:
    cleo = make_person("Cleo")
    Member.objects.create(conversation=scene.group, user=cleo)
    other = make_phone(cleo)

    plan(connected=lambda device_ids: {scene.beas_phone.id})

    due = PushCursor.objects.filter(not_before__lte=timezone.now())
    assert [cursor.device_id for cursor in due] == [other.id]


@pytest.mark.parametrize("has_target", [True, False])
def test_a_device_waits_while_its_user_is_active_on_another(scene: Scene, has_target: bool) -> None:
    target = "desktop" if has_target else ""
    make_phone(scene.bea, platform="web", target=target, last_seen_at=timezone.now())

    plan()

    cursor = PushCursor.objects.get(device=scene.beas_phone.id)
    assert cursor.not_before == Notification.objects.get().created_at + timedelta(seconds=10)
    assert PushCursor.objects.count() == 1 + has_target


def test_the_device_in_use_does_not_wait_for_itself(scene: Scene) -> None:
    scene.beas_device.update(last_seen_at=timezone.now())

    plan()

    assert PushCursor.objects.get().not_before == Notification.objects.get().created_at


def test_a_live_socket_elsewhere_is_activity(scene: Scene) -> None:
    desktop = make_phone(scene.bea, target="")

    plan(connected=lambda device_ids: {desktop.id})

    assert PushCursor.objects.get().not_before == Notification.objects.get().created_at + timedelta(seconds=10)


def test_what_is_read_on_the_desktop_meanwhile_wakes_no_phone(scene: Scene, provider: MemoryProvider) -> None:
    make_phone(scene.bea, target="", last_seen_at=timezone.now())
    worker = make_worker(provider, elsewhere_seconds=0.5)

    work(worker, until=lambda: PushCursor.objects.exists())
    scene.beas_membership.update(read_seq=scene.message.seq)
    work(make_worker(provider, elsewhere_seconds=0.5))

    assert provider.tries == []
    assert states() == [("dropped", "read")]


def test_a_socket_that_closes_makes_due_what_waits_for_it(scene: Scene) -> None:
    plan(connected=lambda device_ids: list(device_ids))

    assert operations.hasten([scene.beas_phone.id]) == 1

    assert PushCursor.objects.get().not_before <= timezone.now()
    assert operations.hasten([scene.beas_phone.id]) == 0


def test_a_socket_that_closes_hastens_nothing_that_waits_for_the_provider(scene: Scene) -> None:
    plan(connected=lambda device_ids: list(device_ids))
    PushCursor.objects.update(attempts=1)

    assert operations.hasten([scene.beas_phone.id, scene.anns_phone.id]) == 0


async def _nobody_knows(device_ids: Sequence[UUID]) -> None:
    return None


async def _knows_too_late(device_ids: Sequence[UUID]) -> Collection[UUID]:
    await asyncio.sleep(3600)
    return ()


def _fails(device_ids: Sequence[UUID]) -> Collection[UUID]:
    raise ConnectionError("no Redis")


@pytest.mark.parametrize("connected", [_nobody_knows, _knows_too_late, _fails])
def test_everybody_waits_where_nobody_knows_who_is_connected(
    scene: Scene, connected: Callable[[Sequence[UUID]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "CONNECTED_SECONDS", 0.05)

    plan(connected=connected)

    assert PushCursor.objects.get().not_before == Notification.objects.get().created_at + timedelta(seconds=5)


def test_a_live_socket_that_does_not_acknowledge_is_pushed_after_its_grace(
    scene: Scene, provider: MemoryProvider
) -> None:
    began = time.monotonic()

    work(make_worker(provider, connected=lambda device_ids: list(device_ids), grace_seconds=0.5))

    assert len(provider.sent) == 1
    assert 0.3 < time.monotonic() - began < 3


def test_a_live_socket_that_acknowledges_is_not_pushed(scene: Scene, provider: MemoryProvider) -> None:
    acknowledge(scene.beas_phone, scene.message)

    work(make_worker(provider, connected=lambda device_ids: list(device_ids), grace_seconds=0.2))

    assert provider.tries == []
    assert states() == [("dropped", "acknowledged")]


def test_acknowledging_on_one_device_does_not_spare_the_other(scene: Scene, provider: MemoryProvider) -> None:
    other = make_phone(scene.bea)
    acknowledge(scene.beas_phone, scene.message)

    work(make_worker(provider))

    assert [push.target for push in provider.sent] == [other.target]


def test_a_wake_up_is_followed_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 3600)

    elsewhere = make_conversation(scene.ann, scene.bea)

    class AnnWritesAgain(MemoryProvider):
        async def deliver(self, push: Push) -> Outcome:
            if not self.tries:
                await threads.run(write, elsewhere, scene.ann, "again")
                woken.wake()
            return await super().deliver(push)

    provider = AnnWritesAgain()
    woken = make_worker(provider)
    work(woken, until=lambda: len(provider.sent) == 2)

    assert [push.body for push in provider.sent] == ["Ann: hello", "Ann: again"]


# --- decided just before sending


def _session(scene: Scene) -> None:
    soon = timezone.now() + timedelta(days=1)
    Session.objects.create(
        user=scene.bea, device=scene.beas_phone, refresh_hash=b"x", expires_at=soon, revoked_at=timezone.now()
    )


def _phone_moves_on(scene: Scene) -> None:
    cleo = make_person("Cleo")
    target = scene.beas_phone.target
    scene.beas_device.update(target="")
    make_phone(cleo, target=target)


CHANGES: dict[str, Callable[[Scene], object]] = {
    "acknowledged": lambda scene: acknowledge(scene.beas_phone, scene.message),
    "read": lambda scene: scene.beas_membership.update(read_seq=scene.message.seq),
    "message_deleted": lambda scene: Message.objects.update(text=None, deleted_at=timezone.now()),
    "muted": lambda scene: scene.beas_membership.update(muted_until=timezone.now() + timedelta(hours=1)),
    "mentions_only": lambda scene: scene.beas_membership.update(notification_level="mentions"),
    "notifications_off": lambda scene: scene.beas_membership.update(notification_level="none"),
    "sender_blocked": lambda scene: Block.objects.create(blocker=scene.bea, blocked=scene.ann),
    "not_a_member": lambda scene: scene.beas_membership.delete(),
    "device_gone": lambda scene: scene.beas_device.update(user=scene.ann),
    "stale_device": lambda scene: scene.beas_device.update(last_seen_at=timezone.now() - timedelta(days=61)),
    "logged_out": _session,
    "no_push_target": _phone_moves_on,
    "expired": lambda scene: PushCursor.objects.update(expires_at=timezone.now()),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_happens_before_sending_is_heeded(scene: Scene, provider: MemoryProvider, reason: str) -> None:
    plan()
    CHANGES[reason](scene)

    work(make_worker(provider))

    assert provider.tries == []
    assert states() == [("dropped", reason)]


def test_a_former_member_who_came_back_hears_only_what_is_new(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    scene.beas_membership.update(joined_seq=scene.message.seq)
    write(scene.group, scene.ann, "welcome back")

    work(make_worker(provider))

    assert [push.body for push in provider.sent] == ["Ann: welcome back"]


def test_a_device_that_is_removed_takes_its_pushes_with_it(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    scene.beas_device.delete()

    work(make_worker(provider))

    assert provider.tries == []
    assert not PushCursor.objects.exists()


def test_blocking_works_one_way(scene: Scene, provider: MemoryProvider) -> None:
    Block.objects.create(blocker=scene.ann, blocked=scene.bea)

    work(make_worker(provider))

    assert len(provider.sent) == 1


def test_a_mention_breaks_through_a_mute(scene: Scene, provider: MemoryProvider) -> None:
    Message.objects.update(mentions=[scene.bea.id])
    scene.beas_membership.update(muted_until=timezone.now() + timedelta(hours=1), notification_level="mentions")

    work(make_worker(provider))

    assert len(provider.sent) == 1


def test_what_happened_to_a_group_is_silent(scene: Scene, provider: MemoryProvider) -> None:
    Message.objects.update(kind="system")

    work(make_worker(provider))

    assert states() == [("dropped", "system_message")]


def test_the_edited_text_is_pushed(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    Message.objects.update(text="hello, Bea", edited_at=timezone.now())

    work(make_worker(provider))

    assert [push.body for push in provider.sent] == ["Ann: hello, Bea"]


def test_the_new_target_is_used(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    scene.beas_device.update(target="new")

    work(make_worker(provider))

    assert [push.target for push in provider.sent] == ["new"]


def test_the_badge_counts_unmuted_conversations_with_unread_messages(scene: Scene, provider: MemoryProvider) -> None:
    in_ten = timezone.now() + timedelta(hours=10)
    read, muted = make_conversation(scene.ann, scene.bea), make_conversation(scene.ann, scene.bea)
    own, unread = make_conversation(scene.ann, scene.bea), make_conversation(scene.ann, scene.bea)
    write(read, scene.ann), write(muted, scene.ann), write(own, scene.bea), write(unread, scene.ann)
    Member.objects.filter(conversation=read, user=scene.bea).update(read_seq=1)
    Member.objects.filter(conversation=muted, user=scene.bea).update(muted_until=in_ten)
    Notification.objects.exclude(message_id=scene.message.id).delete()

    work(make_worker(provider))

    assert [push.badge for push in provider.sent] == [2]


# --- outcomes


def test_a_missing_target_is_forgotten(scene: Scene, provider: MemoryProvider) -> None:
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.TARGET_GONE, "404_UNREGISTERED")]

    work(make_worker(provider))

    assert states() == [("dropped", "404_UNREGISTERED")]
    assert scene.beas_device.get().target == ""
    assert Device.objects.get(id=scene.anns_phone.id).target == scene.anns_phone.target


@pytest.mark.parametrize(("minutes", "is_kept"), [(-1, False), (1, True)])
def test_a_target_is_forgotten_unless_it_was_registered_after_the_provider_missed_it(
    scene: Scene, provider: MemoryProvider, minutes: int, is_kept: bool
) -> None:
    missed_at = timezone.now() - timedelta(hours=1)
    scene.beas_device.update(target_updated_at=missed_at + timedelta(minutes=minutes))
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.TARGET_GONE, "410_Unregistered", gone_at=missed_at)]

    work(make_worker(provider), until=lambda: Delivery.objects.filter(reason="410_Unregistered").exists())

    assert scene.beas_device.get().target == (scene.beas_phone.target if is_kept else "")
    assert states() == [("pending" if is_kept else "dropped", "410_Unregistered")]
    waits = PushCursor.objects.get().not_before
    assert (waits is not None and waits - timezone.now() > timedelta(seconds=5)) == is_kept


def test_a_target_that_was_replaced_meanwhile_is_kept_and_used(scene: Scene) -> None:
    class Reregisters(MemoryProvider):
        """The phone registers anew while the provider says that the old target is gone."""

        async def deliver(self, push: Push) -> Outcome:
            outcome = await super().deliver(push)
            if len(self.tries) == 1:
                await threads.run(lambda: scene.beas_device.update(target="fresh"))
            return outcome

    provider = Reregisters()
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.TARGET_GONE, "404_UNREGISTERED")]

    work(make_worker(provider))

    assert [push.target for push in provider.tries] == [scene.beas_phone.target, "fresh"]
    assert len({push.push_id for push in provider.tries}) == 1
    assert scene.beas_device.get().target == "fresh"
    assert states() == [("sent", "")]


def test_a_failure_is_tried_again_after_a_while_with_the_same_id(scene: Scene, provider: MemoryProvider) -> None:
    target = scene.beas_phone.target
    provider.outcomes[target] = [Outcome(Verdict.RETRY, "http_503"), Outcome(Verdict.RETRY, "http_503")]

    work(make_worker(provider), until=lambda: Delivery.objects.filter(reason="http_503").exists())
    first = PushCursor.objects.get()
    make_due()
    work(make_worker(provider), until=lambda: Delivery.objects.filter(attempts=2).exists())
    second = PushCursor.objects.get()
    make_due()
    work(make_worker(provider))

    assert 7 < (first.not_before - timezone.now()).total_seconds() < 13
    assert 15 < (second.not_before - timezone.now()).total_seconds() < 25
    assert [push.push_id for push in provider.tries] == [first.push_id] * 3
    assert states() == [("sent", "")]
    assert [tried["code"] for tried in Delivery.objects.get().tries] == ["http_503", "http_503", "sent"]


def test_retry_after_is_kept(scene: Scene, provider: MemoryProvider) -> None:
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.RETRY, "http_429", retry_after=100.0)]

    work(make_worker(provider), until=lambda: Delivery.objects.filter(reason="http_429").exists())

    assert 98 < (PushCursor.objects.get().not_before - timezone.now()).total_seconds() < 112


def test_a_retry_beyond_its_life_ends_with_it(scene: Scene, provider: MemoryProvider) -> None:
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.RETRY, "http_503", retry_after=1e9)]

    work(make_worker(provider), until=lambda: Delivery.objects.filter(reason="http_503").exists())

    cursor = PushCursor.objects.get()
    assert cursor.not_before == cursor.expires_at


def test_a_rejected_push_is_dead_and_its_target_kept(scene: Scene, provider: MemoryProvider) -> None:
    provider.outcomes[scene.beas_phone.target] = [Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")]

    work(make_worker(provider))

    assert states() == [("dead", "400_INVALID_ARGUMENT")]
    assert scene.beas_device.get().target == scene.beas_phone.target


def test_a_refusing_provider_is_paused_everything_kept_and_sent_after_the_repair(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "pause_delay", lambda failures: 0.3 * failures)
    crowd(scene, 5)
    provider = Scripted(Outcome(Verdict.PAUSE, "http_403"), Outcome(Verdict.PAUSE, "http_403"), concurrency=1)
    began = time.monotonic()

    work(make_worker(provider))

    assert time.monotonic() - began > 0.9
    assert len(provider.tries) == 8
    assert len(provider.sent) == len({push.push_id for push in provider.sent}) == 6
    assert states() == [("sent", "")] * 6
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


def test_an_outage_is_probed_and_no_herd_comes_after_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "pause_delay", lambda failures: 0.2)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempts, retry_after=None: 0.01)
    crowd(scene, 40)

    class Away(MemoryProvider):
        """Fails until three single pushes have probed it; notes how many come at once."""

        at_once = 0
        seen: ClassVar[list[int]] = []

        async def deliver(self, push: Push) -> Outcome:
            self.at_once += 1
            self.seen.append(self.at_once)
            await asyncio.sleep(0.02)
            self.at_once -= 1
            if len(self.seen) < self.concurrency + 3:
                return Outcome(Verdict.RETRY, "http_503")
            return await super().deliver(push)

    provider = Away(concurrency=16)
    work(make_worker(provider), seconds=20)

    outage, after = provider.seen[:18], provider.seen[18:]
    assert sorted(outage) == sorted([*range(1, 17), 1, 1])
    assert after[0] == 1
    assert max(after[:3]) <= 2
    assert states() == [("sent", "")] * 41


def test_while_one_provider_is_paused_another_sends(scene: Scene) -> None:
    broken, sound = MemoryProvider("broken"), MemoryProvider("sound")
    cleo = make_person("Cleo")
    cleos_phone = make_phone(cleo, push_provider="sound")
    Member.objects.create(conversation=scene.group, user=cleo)
    broken.outcomes[scene.beas_phone.target] = [Outcome(Verdict.PAUSE, "http_401")] * 9

    work(make_worker(broken, sound), until=lambda: Delivery.objects.filter(state="sent").exists())

    assert [push.target for push in sound.sent] == [cleos_phone.target]
    assert states() == [("pending", "http_401"), ("sent", "")]


def test_a_device_may_change_its_provider(scene: Scene) -> None:
    first, second = MemoryProvider("memory"), MemoryProvider("second")
    plan()
    scene.beas_device.update(push_provider="second")

    work(make_worker(first, second))

    assert (len(first.tries), len(second.sent)) == (0, 1)


def test_a_provider_that_is_not_configured_is_said_so(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    scene.beas_device.update(push_provider="pigeon")

    work(make_worker(provider))

    assert states() == [("dropped", "provider_not_configured")]


def test_a_provider_that_raises_loses_nothing(scene: Scene) -> None:
    class Raises(MemoryProvider):
        async def deliver(self, push: Push) -> Outcome:
            raise RuntimeError("a bug")

    work(make_worker(Raises()), until=lambda: Delivery.objects.filter(reason="provider_failed").exists())

    assert states() == [("pending", "provider_failed")]


def test_a_provider_that_never_answers_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "DELIVER_SECONDS", 0.05)

    class Hangs(MemoryProvider):
        async def deliver(self, push: Push) -> Outcome:
            await asyncio.sleep(3600)
            return Outcome(Verdict.SENT)

    work(make_worker(Hangs()), until=lambda: Delivery.objects.filter(reason="no_answer").exists())

    assert states() == [("pending", "no_answer")]


def test_a_poisoned_message_harms_no_other(
    scene: Scene, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("poison", "after it"):
        write(make_conversation(scene.ann, scene.bea), scene.ann, text)

    def render_or_fail(due: DuePush, kind: Kind, *, badge: int, look: Look) -> Push:
        if due.previews[0].text == "poison":
            raise ValueError("cannot be rendered")
        return render(due, kind, badge=badge, look=look)

    monkeypatch.setattr(sender, "render", render_or_fail)
    work(make_worker(provider))

    assert sorted(push.body for push in provider.sent) == ["Ann: after it", "Ann: hello"]
    assert states() == [("dead", "not_renderable"), ("sent", ""), ("sent", "")]


# --- strength


def test_requests_in_flight_are_bounded(scene: Scene) -> None:
    class Counts(MemoryProvider):
        in_flight = most = 0

        async def deliver(self, push: Push) -> Outcome:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            await asyncio.sleep(0.01)
            self.in_flight -= 1
            return await super().deliver(push)

    provider = Counts(concurrency=4)
    crowd(scene, 30)

    work(make_worker(provider))

    assert len(provider.sent) == 31
    assert 1 < provider.most <= 4


def test_two_workers_share_the_work_and_send_each_push_once(scene: Scene) -> None:
    class Slow(MemoryProvider):
        async def deliver(self, push: Push) -> Outcome:
            await asyncio.sleep(0.005)
            return await super().deliver(push)

    crowd(scene, 200)
    one, other = Slow(), Slow()

    work(make_worker(one), make_worker(other), seconds=30)

    sent = [push.push_id for push in one.sent + other.sent]
    assert len(sent) == len(set(sent)) == 201
    assert one.sent
    assert other.sent


def test_what_a_dead_worker_held_is_taken_over_after_its_lease(scene: Scene, provider: MemoryProvider) -> None:
    operations.claim_notifications(limit=10, lease_seconds=0.2, count_members_to=10)
    work(make_worker(provider), until=lambda: not Notification.objects.filter(planned_at=None).exists())
    provider.tries.clear()
    write(scene.group, scene.ann, "again")
    plan()
    make_due()

    [held] = operations.claim_pushes(provider="memory", limit=10, lease_seconds=0.5)
    began = time.monotonic()
    work(make_worker(provider), until=lambda: bool(provider.tries))

    assert time.monotonic() - began > 0.4
    assert [push.push_id for push in provider.tries] == [held.push_id]


def test_a_plan_that_was_broken_off_is_finished_without_doubles(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    before = set(PushCursor.objects.values_list("id", flat=True))
    Notification.objects.update(planned_at=None)

    work(make_worker(provider))
    Notification.objects.update(planned_at=None)
    work(make_worker(provider))

    assert set(PushCursor.objects.values_list("id", flat=True)) == before
    assert len(provider.sent) == 1


def test_a_large_group_is_planned_page_by_page(
    scene: Scene, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MEMBERS_PER_PAGE", 10)
    crowd = [make_person(f"Guest{number}") for number in range(35)]
    phones = {make_phone(guest).id for guest in crowd}
    large = make_conversation(scene.ann, *crowd)
    small = [make_conversation(scene.ann, crowd[0], crowd[1]) for _ in range(6)]
    for conversation in (small[0], small[1], large, *small[2:]):
        write(conversation, scene.ann)

    plan()

    in_large = PushCursor.objects.filter(conversation=large)
    assert set(in_large.values_list("device", flat=True)) == phones
    assert PushCursor.objects.count() == 35 + 6 * 2 + 1
    assert not Notification.objects.filter(planned_at=None).exists()


def test_a_plan_that_fails_holds_up_no_other(
    scene: Scene, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MEMBERS_PER_PAGE", 2)
    elsewhere = make_conversation(scene.ann, scene.bea)
    write(elsewhere, scene.ann, "after it")
    first = Notification.objects.get(message_id=scene.message.id)
    store = operations.plan

    def store_or_fail(planned: Sequence[Planned]) -> None:
        if any(row.conversation_id == first.conversation_id for row in planned):
            raise ValueError("cannot be planned")
        store(planned)

    monkeypatch.setattr(operations, "plan", store_or_fail)
    work(make_worker(provider), until=lambda: bool(provider.sent))

    assert [push.body for push in provider.sent] == ["Ann: after it"]
    first.refresh_from_db()
    assert first.planned_at is None


def test_results_wait_for_a_database_that_is_away(
    scene: Scene, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.01)
    record, failures = operations.record_results, [OperationalError("away"), OperationalError("away")]

    def sometimes(results: Any) -> None:
        if failures:
            raise failures.pop()
        record(results)

    monkeypatch.setattr(operations, "record_results", sometimes)
    work(make_worker(provider))

    assert len(provider.tries) == 1
    assert states() == [("sent", "")]


def test_a_database_that_is_away_ends_no_loop(
    scene: Scene, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)
    claim, failures = operations.claim_pushes, [OperationalError("away"), RuntimeError("a bug")]

    def sometimes(**arguments: Any) -> list[DuePush]:
        if failures:
            raise failures.pop()
        return claim(**arguments)

    monkeypatch.setattr(operations, "claim_pushes", sometimes)
    work(make_worker(provider))

    assert states() == [("sent", "")]


def test_a_result_that_comes_after_the_lease_puts_nothing_back(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    [first] = operations.claim_pushes(provider="memory", limit=1, lease_seconds=0)
    [second] = operations.claim_pushes(provider="memory", limit=1, lease_seconds=60)

    retry = Result(due=first, kind=Kind.ALERT, state=State.PENDING, reason="late", delay_seconds=600)
    operations.record_results([retry])
    unchanged = PushCursor.objects.get()
    operations.record_results([Result(due=second, kind=Kind.ALERT, state=State.SENT, seq=1)])
    operations.record_results([retry])

    assert unchanged.leased_until == second.leased_until
    assert PushCursor.objects.get().not_before is None
    assert PushCursor.objects.get().sent_seq == 1


def test_stopping_waits_for_what_is_in_flight(scene: Scene) -> None:
    class Slow(MemoryProvider):
        async def deliver(self, push: Push) -> Outcome:
            began.set()
            await asyncio.sleep(0.2)
            return await super().deliver(push)

    async def story() -> None:
        running = asyncio.create_task(slow.run())
        await began.wait()
        slow.stop()
        await running

    slow, began = make_worker(Slow()), asyncio.Event()
    asyncio.run(story())

    assert nothing_is_pending()
    assert states() == [("sent", "")]


def test_a_sender_who_deleted_the_account_is_someone(scene: Scene, provider: MemoryProvider) -> None:
    User.objects.filter(id=scene.ann.id).delete()

    work(make_worker(provider))

    assert [push.body for push in provider.sent] == ["Someone: hello"]


def test_a_conversation_that_was_deleted_wakes_nobody(scene: Scene, provider: MemoryProvider) -> None:
    plan()
    Conversation.objects.all().delete()

    work(make_worker(provider))

    assert provider.tries == []
    assert not PushCursor.objects.exists()
