"""
What people see of their conversations on lock screens: stories on the real database, through the local FCM.

Time is moved, not slept: ``Scene.wait`` sets back every moment that the push outbox knows.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from time import monotonic
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from models.conversation import DeviceReceipt, Member
from models.device import Device
from models.message import Message
from models.notification import Delivery, Notification, PushClear, PushCursor
from models.operations import conversations, devices, members, messages, sessions, users
from models.receipts import Receipt, store
from models.user import User
from push import sender as push_sender
from push import worker as push_worker
from push.planner import Planner, Schedule
from push.providers.fcm import FcmProvider
from tests import factories
from tests.devices import Phone
from tests.fcm import Fcm, refusal
from tests.push.scene import make_worker, states, work

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = 3600.0


class Scene:
    """Ann writes, Bea has an Android phone, an iPhone, and sometimes a desktop."""

    def __init__(self, fcm: Fcm) -> None:
        self.fcm = fcm
        self.ann, self.bea = factories.make_user("Ann"), factories.make_user("Bea")
        self.android = self.phone_of(self.bea, "android")
        self.iphone = self.phone_of(self.bea, "ios")
        self.group = self.make_group("Climbing")

    def phone_of(self, user: User, platform: str) -> Device:
        session = factories.make_session(user).session
        target = f"{platform}-of-{user.name}-{user.id}"
        devices.register(actor=user.id, device_id=session.device_id, platform=platform, target=target)
        # Seen a while ago, so that no device is in use.
        Device.objects.filter(id=session.device_id).update(last_seen_at=timezone.now() - timedelta(hours=1))
        return Device.objects.get(id=session.device_id)

    def make_group(self, title: str, *more: User) -> UUID:
        """A group of Ann, Bea and others, in which nothing has been said."""
        group = factories.make_group(self.ann, self.bea, *more, title=title)
        # What happened while it was made is silent, and no part of the stories.
        Notification.objects.filter(conversation_id=group.id).delete()
        return group.id

    def write(self, text: str, group: UUID | None = None, **fields: object) -> UUID:
        return factories.send(self.ann, group or self.group, text, **fields)

    def read(self, group: UUID | None = None, device: Device | None = None) -> None:
        """Bea reads everything, on a desktop that has no pushes or on one of her phones."""
        group = group or self.group
        top = Message.objects.filter(conversation=group).order_by("-seq").values_list("seq", flat=True)[0]
        store([Receipt(self.bea.id, device and device.id, group, delivered=top, read=top)])

    def plan(self) -> None:
        """Let pushes wait for their time."""
        schedule = Schedule(default_provider="fcm", grace_seconds=5, active_elsewhere_seconds=10, ttl_seconds=HOUR)
        asyncio.run(Planner(schedule, lambda device_ids: ()).plan_due())
        assert PushCursor.objects.filter(not_before__isnull=False).exists()

    def push(self) -> None:
        """Let a worker do what is due."""
        work(make_worker(FcmProvider(self.fcm.credentials, self.fcm.url)), until=nothing_is_due, seconds=30)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        by = timedelta(seconds=seconds)
        for table, columns in {
            "messaging_pushcursor": ("not_before", "expires_at", "sent_at", "cleared_at"),
            "messaging_pushclear": ("not_before", "sent_at"),
            "messaging_notification": ("created_at",),
            "messaging_delivery": ("created_at",),
        }.items():
            changes = ", ".join(f"{column} = {column} - %(by)s" for column in columns)
            with connection.cursor() as cursor:
                cursor.execute(f"UPDATE {table} SET {changes}", {"by": by})
        self.fcm.clock.move(seconds)

    def screen(self, device: Device) -> Phone:
        return self.fcm.phones[device.target]

    def shown(self) -> list[list[tuple[str, str]]]:
        """What is on the Android phone and on the iPhone."""
        return [self.screen(device).shown for device in (self.android, self.iphone)]

    def badges(self) -> list[int | None]:
        return [self.screen(device).badge for device in (self.android, self.iphone)]

    def pushes(self, device: Device) -> list[str]:
        """The types of the pushes that were posted to a device."""
        return [post.message["data"]["type"] for post in self.fcm.posts if post.target == device.target]


@pytest.fixture
def scene(fcm: Fcm) -> Scene:
    return Scene(fcm)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_worker, "POLL_SECONDS", 0.02)


def nothing_is_due() -> bool:
    now = timezone.now()
    return not (
        Notification.objects.filter(planned_at=None).exists()
        or PushCursor.objects.filter(not_before__lte=now).exists()
        or PushClear.objects.filter(not_before__lte=now).exists()
    )


def both(*notifications: tuple[str, str]) -> list[list[tuple[str, str]]]:
    return [list(notifications)] * 2


# --- one notification for a conversation


def test_what_comes_while_it_is_on_the_screen_is_added(scene: Scene) -> None:
    scene.write("hello")
    scene.push()
    scene.wait(10)
    scene.write("are you there?")
    scene.push()

    assert scene.shown() == both(("Climbing", "Ann: hello\nAnn: are you there?"))
    assert scene.pushes(scene.android) == ["message.sent"] * 2


def test_a_burst_is_few_pushes_and_the_last_has_count_and_newest_text(scene: Scene) -> None:
    for turn in range(5):
        began = monotonic()
        for number in range(20):
            scene.write(f"number {20 * turn + number}")
        scene.push()
        # Ten seconds in all, whatever of them the machine has taken already.
        scene.wait(max(0.0, 2 - (monotonic() - began)))
    scene.wait(3)
    scene.push()

    for device in (scene.android, scene.iphone):
        assert 2 <= len(scene.pushes(device)) <= 5
    newest = "\n".join(f"Ann: number {number}" for number in range(95, 100))
    assert scene.shown() == both(("Climbing", f"100 new messages\n{newest}"))
    data = scene.fcm.posts[-1].message["data"]
    assert (data["count"], PushCursor.objects.filter(sent_seq=data["seq"]).count()) == ("100", 2)


def test_at_most_sixty_pushes_a_minute_reach_a_device(scene: Scene) -> None:
    for number in range(70):
        scene.write("hello", scene.make_group(f"Group {number}"))
    scene.push()
    in_the_first_minute = len(scene.pushes(scene.android))
    scene.wait(61)
    scene.push()

    assert in_the_first_minute == 60
    assert len(scene.pushes(scene.android)) == 70


# --- read


def test_what_is_read_on_the_desktop_during_the_delay_is_not_pushed(scene: Scene) -> None:
    scene.write("hello")
    scene.read()
    scene.push()

    assert scene.fcm.posts == []
    assert states() == [("dropped", "read")] * 2


def test_what_is_read_on_the_desktop_leaves_all_screens(scene: Scene) -> None:
    scene.write("hello")
    scene.push()
    assert scene.shown() == both(("Climbing", "Ann: hello"))

    scene.read()
    scene.wait(5)
    scene.push()

    assert scene.shown() == both()
    assert scene.badges() == [0, 0]
    assert scene.pushes(scene.android) == ["message.sent", "clear"]


def test_the_phone_that_reads_clears_its_own_screen(scene: Scene) -> None:
    scene.write("hello")
    scene.push()

    scene.read(device=scene.android)
    scene.wait(5)
    scene.push()

    assert scene.pushes(scene.android) == ["message.sent"]
    assert scene.pushes(scene.iphone) == ["message.sent", "clear"]


def test_what_is_read_while_its_push_is_on_the_way_is_cleared(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write("hello")
    take = scene.fcm.judge

    def read_meanwhile(message: dict[str, object]) -> object:
        scene.fcm.judge = take
        scene.read()
        connection.close()
        return take(message)

    monkeypatch.setattr(scene.fcm, "judge", read_meanwhile)
    scene.push()
    scene.wait(5)
    scene.push()

    assert scene.shown() == both()


def test_reading_one_conversation_leaves_the_other_s_notification_alone(scene: Scene) -> None:
    other = scene.make_group("Dinner")
    scene.write("hello")
    scene.write("pizza?", other)
    scene.push()

    scene.read()
    scene.wait(5)
    scene.push()

    assert scene.shown() == both(("Dinner", "Ann: pizza?"))
    assert scene.badges() == [1, 1]


def test_fifty_conversations_read_cost_apple_three_background_pushes_an_hour(scene: Scene) -> None:
    groups = [scene.make_group(f"Group {number}") for number in range(50)]
    for group in groups:
        scene.write("hello", group)
    scene.push()
    assert len(scene.screen(scene.iphone).shown) == 50

    for group in groups:
        scene.read(group)
        scene.wait(60)
        scene.push()
    within_an_hour = scene.pushes(scene.iphone).count("clear")
    scene.wait(21 * 60)
    scene.push()

    assert within_an_hour <= 3
    assert scene.screen(scene.iphone).throttled == 0
    assert scene.shown() == both()


def test_an_alert_says_what_to_clear_and_saves_the_background_push(scene: Scene) -> None:
    other = scene.make_group("Dinner")
    scene.write("hello")
    scene.push()
    scene.read()
    scene.write("pizza?", other)
    scene.push()
    scene.wait(HOUR)
    scene.push()

    assert scene.shown() == both(("Dinner", "Ann: pizza?"))
    assert scene.pushes(scene.iphone) == ["message.sent"] * 2


def test_an_android_phone_that_was_off_hears_of_all_that_was_read(scene: Scene) -> None:
    groups = [scene.make_group(f"Group {number}") for number in range(6)]
    for group in groups:
        scene.write("hello", group)
    scene.push()
    scene.screen(scene.android).offline()
    for group in groups:
        scene.read(group)
        scene.wait(10)
        scene.push()

    scene.screen(scene.android).online()

    assert scene.shown()[0] == []
    assert scene.screen(scene.android).badge == 0


def test_acknowledging_on_one_device_does_not_spare_the_other(scene: Scene) -> None:
    scene.write("hello")
    seq = Message.objects.get(text="hello").seq
    DeviceReceipt.objects.create(device=scene.android, conversation_id=scene.group, delivered_seq=seq)
    scene.push()

    assert scene.shown() == [[], [("Climbing", "Ann: hello")]]


# --- edited and deleted


def test_what_is_edited_before_sending_is_pushed_as_it_reads_now(scene: Scene) -> None:
    message = scene.write("helo")
    messages.edit_message(actor=scene.ann.id, message_id=message, text="hello")
    scene.push()

    assert scene.shown() == both(("Climbing", "Ann: hello"))
    assert scene.pushes(scene.android) == ["message.sent"]


def test_what_is_edited_on_the_screen_changes_there_without_a_sound(scene: Scene) -> None:
    message = scene.write("helo")
    scene.push()
    scene.wait(10)
    messages.edit_message(actor=scene.ann.id, message_id=message, text="hello")
    scene.push()

    assert scene.shown() == both(("Climbing", "Ann: hello"))
    assert [scene.screen(device).sounds for device in (scene.android, scene.iphone)] == [1, 1]


def test_what_is_deleted_before_sending_is_not_pushed(scene: Scene) -> None:
    message = scene.write("oops")
    messages.delete_message(actor=scene.ann.id, message_id=message)
    scene.push()

    assert scene.fcm.posts == []
    assert states() == [("dropped", "message_deleted")] * 2


def test_what_is_deleted_on_the_screen_leaves_it(scene: Scene) -> None:
    message = scene.write("oops")
    scene.push()
    scene.wait(10)
    messages.delete_message(actor=scene.ann.id, message_id=message)
    scene.push()
    scene.wait(5)
    scene.push()

    assert scene.shown() == both()
    assert scene.badges() == [0, 0]


def test_of_two_messages_on_the_screen_the_other_stays(scene: Scene) -> None:
    message = scene.write("oops")
    scene.write("hello")
    scene.push()
    scene.wait(10)
    messages.delete_message(actor=scene.ann.id, message_id=message)
    scene.push()

    assert scene.shown() == both(("Climbing", "Ann: hello"))
    assert scene.screen(scene.android).sounds == 1


# --- who does not want it


def mute(scene: Scene, level: str | None = None, *, hours: float = 1) -> None:
    until = timezone.now() + timedelta(hours=hours)
    conversations.mute(actor=scene.bea.id, conversation_id=scene.group, until=until, level=level)


def test_a_muted_conversation_wakes_nobody_and_counts_not(scene: Scene) -> None:
    mute(scene)
    scene.write("hello")
    scene.write("pizza?", scene.make_group("Dinner"))
    scene.push()

    assert scene.shown() == both(("Dinner", "Ann: pizza?"))
    assert scene.badges() == [1, 1]


def test_a_mention_breaks_the_mute_and_shows_nothing_else(scene: Scene) -> None:
    mute(scene)
    scene.write("not for Bea")
    scene.write("Bea, look", mentions=[scene.bea.id])
    scene.write("not for her either")
    scene.push()

    assert scene.shown() == both(("Climbing", "Ann: Bea, look"))


def test_a_mention_breaks_not_through_none(scene: Scene) -> None:
    mute(scene, level="none")
    scene.write("Bea, look", mentions=[scene.bea.id])
    scene.push()

    assert scene.fcm.posts == []


def test_a_blocked_sender_is_not_heard(scene: Scene) -> None:
    users.block(actor=scene.bea.id, user_id=scene.ann.id)
    scene.write("hello")
    scene.push()

    assert scene.fcm.posts == []
    assert states() == [("dropped", "sender_blocked")] * 2


def test_who_is_removed_hears_nothing_more_and_loses_what_is_shown(scene: Scene) -> None:
    scene.write("hello")
    scene.push()
    scene.wait(10)
    scene.write("now without Bea")
    members.remove_member(actor=scene.ann.id, conversation_id=scene.group, user_id=scene.bea.id)
    scene.push()
    scene.wait(5)
    scene.push()

    assert scene.shown() == both()
    assert "now without Bea" not in str(scene.fcm.posts)


def test_followers_of_a_feed_hear_of_it_if_they_asked(scene: Scene) -> None:
    cleo = factories.make_user("Cleo")
    cleos_phone = scene.phone_of(cleo, "android")
    feed = conversations.create_feed(actor=scene.ann.id, title="News").id
    for follower in (scene.bea, cleo):
        members.follow(actor=follower.id, conversation_id=feed)
    conversations.mute(actor=cleo.id, conversation_id=feed, until=None, level="all")
    scene.write("extra, extra", feed)
    scene.push()

    assert scene.shown() == both()
    assert scene.screen(cleos_phone).shown == [("News", "Ann: extra, extra")]
    assert PushCursor.objects.count() == 1


# --- quiet hours


def at(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be this moment for the rules; the outbox goes by its own clock."""
    decide = push_sender.decide
    ahead = moment - timezone.now()
    monkeypatch.setattr(
        push_sender,
        "decide",
        lambda due, **options: decide(
            push_sender.replace(due, now=due.now + ahead, expires_at=due.expires_at + ahead, device_seen_at=None),
            **options,
        ),
    )


def night(scene: Scene, zone: str = "Europe/Berlin") -> None:
    User.objects.filter(id=scene.bea.id).update(time_zone=zone, quiet_from=time(22), quiet_until=time(7))


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        # Before and after midnight in Berlin.
        (datetime(2026, 1, 15, 22, 0, tzinfo=UTC), 8),
        (datetime(2026, 1, 16, 2, 0, tzinfo=UTC), 4),
        # The nights in which the clocks go forward, and back.
        (datetime(2026, 3, 28, 22, 0, tzinfo=UTC), 7),
        (datetime(2026, 10, 24, 21, 0, tzinfo=UTC), 9),
    ],
)
def test_quiet_hours_defer(scene: Scene, monkeypatch: pytest.MonkeyPatch, now: datetime, hours: float) -> None:
    night(scene)
    with monkeypatch.context() as patched:
        at(now, patched)
        scene.write("sleep well")
        scene.push()
    waits = [cursor.not_before - timezone.now() for cursor in PushCursor.objects.all()]
    scene.wait(hours * HOUR)
    with monkeypatch.context() as patched:
        at(now + timedelta(hours=hours, minutes=1), patched)
        scene.push()

    assert all(abs(wait - timedelta(hours=hours)) < timedelta(minutes=1) for wait in waits)
    assert len(waits) == 2
    assert scene.shown() == both(("Climbing", "Ann: sleep well"))


def test_what_gathered_over_night_is_one_summary(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    night(scene, "UTC")
    dinner = scene.make_group("Dinner")
    with monkeypatch.context() as patched:
        at(datetime(2026, 1, 15, 23, 0, tzinfo=UTC), patched)
        for _ in range(3):
            scene.write("hello")
            scene.write("pizza?", dinner)
            scene.push()
    assert scene.fcm.posts == []
    scene.wait(8 * HOUR)
    with monkeypatch.context() as patched:
        at(datetime(2026, 1, 16, 7, 1, tzinfo=UTC), patched)
        scene.push()

    assert scene.shown() == both(("While you were away", "6 new messages in 2 conversations"))
    assert scene.pushes(scene.android) == ["summary"]

    scene.read()
    scene.read(dinner)
    scene.wait(5)
    scene.push()
    assert scene.shown() == both()


# --- badges


def test_the_badge_follows_reads_mutes_and_retries(scene: Scene) -> None:
    dinner, cinema = scene.make_group("Dinner"), scene.make_group("Cinema")
    scene.fcm.script(scene.iphone.target, refusal(503))
    scene.write("pizza?", dinner)
    scene.push()
    scene.write("hello")
    scene.push()
    assert scene.badges() == [2, 2]

    scene.wait(60)
    scene.read(dinner)
    scene.push()
    mute(scene)
    scene.write("popcorn?", cinema)
    scene.push()

    assert scene.badges() == [1, 1]
    assert scene.shown()[1] == [("Climbing", "Ann: hello"), ("Cinema", "Ann: popcorn?")]

    scene.read(cinema)
    scene.wait(HOUR)
    scene.push()
    assert scene.badges() == [0, 0]


# --- devices


def test_a_phone_that_changes_hands_takes_no_push_along(scene: Scene) -> None:
    cleo = factories.make_user("Cleo")
    scene.write("for Bea's eyes")
    scene.plan()
    session = factories.make_session(cleo).session
    devices.register(actor=cleo.id, device_id=session.device_id, platform="android", target=scene.android.target)
    scene.push()

    assert scene.shown() == [[], [("Climbing", "Ann: for Bea's eyes")]]
    assert states() == [("dropped", "no_push_target"), ("sent", "")]


def test_log_out_and_removal_stop_what_is_pending(scene: Scene) -> None:
    scene.write("too late")
    scene.plan()
    session = scene.android.session
    sessions.revoke_session(actor=scene.bea.id, session_id=session.id)
    devices.remove(actor=scene.bea.id, device_id=scene.iphone.id)
    scene.push()

    assert scene.fcm.posts == []
    assert not PushCursor.objects.filter(not_before__isnull=False).exists()


def test_deleting_the_account_stops_what_is_pending(scene: Scene) -> None:
    scene.write("too late")
    scene.plan()
    users.delete_account(actor=scene.bea.id)
    scene.push()

    assert scene.fcm.posts == []


def test_a_device_that_was_not_seen_for_long_is_passed_over(scene: Scene) -> None:
    Device.objects.filter(id=scene.android.id).update(last_seen_at=timezone.now() - timedelta(days=61))
    scene.write("hello")
    scene.push()

    assert scene.shown() == [[], [("Climbing", "Ann: hello")]]
    assert Delivery.objects.get(device_id=scene.android.id).reason == "stale_device"


# --- outages


def test_after_hours_of_outage_each_conversation_has_one_push_and_nothing_expired(scene: Scene) -> None:
    dinner, old = scene.make_group("Dinner"), scene.make_group("Old news")
    scene.fcm.always = refusal(503)
    scene.write("so old that nobody wants it", old)
    scene.push()
    PushCursor.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    for number in range(24):
        scene.write(f"number {number}")
        scene.write(f"pizza {number}?", dinner)
        scene.push()
        scene.wait(300)
    tries = len(scene.fcm.posts)
    scene.fcm.always = None
    scene.fcm.posts.clear()
    scene.wait(1000)
    scene.push()

    assert tries < 2 * 3 * 24
    assert sorted(scene.pushes(scene.android) + scene.pushes(scene.iphone)) == ["message.sent"] * 4
    titles = [sorted(title for title, _ in shown) for shown in scene.shown()]
    assert titles == [["Climbing", "Dinner"]] * 2
    assert Delivery.objects.filter(state="dropped", reason="expired").count() == 2
    assert Member.objects.filter(user=scene.bea).count() == 3
