"""Several worker processes on one database, and one message that concerns thousands of phones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from models import channels, streams
from models.conversation import Conversation, Member
from models.device import Device
from models.notification import Delivery, Notification, PushCursor
from models.user import User
from push.providers.fcm import FcmProvider
from tests import factories
from tests.fcm import Answer, Fcm
from tests.push.scene import make_conversation, make_person, make_phone, nothing_is_pending, write
from tests.push.workers import Workers

pytestmark = pytest.mark.django_db(transaction=True)

DEVICES = 5_000
# The pool for queries, FCM's threads (one for each push in flight), the main one, and what libraries start.
MOST_THREADS = 8 + FcmProvider.concurrency + 12
# Two pages of members, a claim of 64 pushes and their results: far less than what all 5,000 would take.
MOST_GROWTH_BYTES = 64 << 20


@pytest.fixture
def workers(fcm: Fcm, tmp_path: Path) -> Iterator[Workers]:
    with Workers(fcm, tmp_path) as workers:
        yield workers


def posts_by_push(fcm: Fcm) -> Counter[str]:
    return Counter(post.message["data"]["push_id"] for post in fcm.posts)


def write_to_many(count: int) -> None:
    """Let Ann write to that many people with a phone each."""
    ann = make_person("Ann")
    for _ in range(count):
        bea = make_person("Bea")
        make_phone(bea)
        write(make_conversation(ann, bea), ann)


# --- two and four


@pytest.mark.parametrize("count", [2, 4])
def test_workers_share_the_work_and_none_sends_what_another_has(fcm: Fcm, workers: Workers, count: int) -> None:
    # More than all of them have slots for, so that each finds something to do.
    conversations = count * FcmProvider.concurrency + 100
    release = threading.Event()
    fcm.always = Answer(hold=release)
    write_to_many(conversations)
    for _ in range(count):
        workers.start()

    # Every slot of every worker is taken: no push is in two hands, or there would be no end to it.
    workers.await_that(lambda: fcm.in_flight == count * FcmProvider.concurrency, seconds=60)
    assert PushCursor.objects.filter(leased_until__isnull=False).count() == fcm.in_flight
    fcm.always = None
    release.set()
    workers.await_that(lambda: nothing_is_pending() and Delivery.objects.count() == conversations, seconds=60)

    assert len(posts_by_push(fcm)) == conversations
    assert set(posts_by_push(fcm).values()) == {1}
    assert set(Delivery.objects.values_list("state", "attempts")) == {("sent", 1)}
    assert all("push.sent" in worker.log for worker in workers.all)


def test_four_workers_make_one_push_of_many_messages(fcm: Fcm, workers: Workers) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    phone, group = make_phone(bea), make_conversation(ann, bea)
    for number in range(400):
        write(group, ann, f"number {number}")
    for _ in range(4):
        workers.start()

    workers.await_that(lambda: Delivery.objects.exists() and nothing_is_pending())

    # Whoever plans the last ones may come after the first push; what it adds waits three seconds for the next.
    pushes = fcm.push_ids(phone.target)
    assert len(pushes) == len(set(pushes)) <= 2
    assert fcm.posts[-1].message["data"]["seq"] == "400"
    assert Notification.objects.filter(planned_at=None).count() == 0


@pytest.mark.parametrize("count", [2, 4])
def test_when_all_but_one_are_killed_the_last_one_does_their_work(fcm: Fcm, workers: Workers, count: int) -> None:
    # More than one has slots for, so that each of the others has something in hand, unless yet another has it all.
    conversations = (count - 1) * FcmProvider.concurrency + 20
    release = threading.Event()
    fcm.always = Answer(hold=release)
    write_to_many(conversations)
    for _ in range(count):
        workers.start()
    workers.await_that(lambda: fcm.in_flight == conversations, seconds=60)

    for worker in workers.all[1:]:
        worker.kill()
    fcm.always = None
    release.set()
    # All leases that are held now: of the dead, and of the one that is about to record.
    workers.await_that(lambda: Delivery.objects.exists(), seconds=60)
    held = list(PushCursor.objects.filter(leased_until__isnull=False).values_list("id", "leased_until"))
    workers.await_that(lambda: end_leases(held) and nothing_is_pending(), seconds=60)

    assert set(Delivery.objects.values_list("state", flat=True)) == {"sent"}
    assert len(posts_by_push(fcm)) == conversations, "a repeat bears the same push_id"
    assert set(posts_by_push(fcm).values()) == {1, 2}
    assert [phone.shown for phone in fcm.phones.values()] == [[("Climbing", "Ann: hello")]] * conversations


def end_leases(leases: list[tuple[UUID, datetime]]) -> bool:
    """Let these leases end, instead of sleeping; whoever has taken one over has a lease of its own."""
    for cursor, until in leases:
        PushCursor.objects.filter(id=cursor, leased_until=until).update(leased_until=None)
    return True


# --- 5,000 devices


def crowd(sender: User, count: int) -> Conversation:
    """A group of that many people with a phone each, and the sender."""
    people = User.objects.bulk_create([User(name=f"Person {n}", password="!") for n in range(count)])
    Device.objects.bulk_create([Device(user=user, platform="android", target=f"target-{user.id}") for user in people])
    group = Conversation.objects.create(kind="group", title="All", member_count=count + 1)
    streams.create(channels.chat(group.id))
    Member.objects.bulk_create([Member(conversation=group, user=user) for user in (sender, *people)])
    return group


def cost_of_a_send(sender: User, group: Conversation) -> tuple[int, int, int]:
    """How many statements, rows written and rows changed a message costs its sender's transaction."""
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        inserted, updated = rows_so_far()
        factories.send(sender, group.id, "hello everybody")
        more_inserted, more_updated = rows_so_far()
    return len(queries), more_inserted - inserted, more_updated - updated


def rows_so_far() -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(n_tup_ins), sum(n_tup_upd) FROM pg_stat_xact_user_tables")
        inserted, updated = cursor.fetchone()
    return int(inserted), int(updated)


def test_the_sender_of_a_message_to_5000_devices_writes_one_row_into_the_outbox() -> None:
    few, many = factories.make_user("Ann"), factories.make_user("Bob")
    small, large = crowd(few, 1), crowd(many, DEVICES)

    for_few, for_many = cost_of_a_send(few, small), cost_of_a_send(many, large)

    assert for_many == for_few
    # The message, its publication, the mark of the writer's batch, and what is left for the worker.
    assert for_many[1] == 4
    assert Notification.objects.filter(conversation_id=large.id).count() == 1
    assert PushCursor.objects.count() == 0


@contextmanager
def watched(pid: int) -> Iterator[dict[str, int]]:
    """The most memory and threads that a process has meanwhile."""
    process, is_over = psutil.Process(pid), threading.Event()
    most = {"memory": process.memory_info().rss, "threads": process.num_threads()}

    def watch() -> None:
        while not is_over.wait(0.02):
            most["memory"] = max(most["memory"], process.memory_info().rss)
            most["threads"] = max(most["threads"], process.num_threads())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        is_over.set()
        watching.join()


def test_5000_devices_of_a_group_are_told_with_bounded_memory_and_threads(fcm: Fcm, workers: Workers) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    make_phone(bea, target="first")
    group = crowd(ann, DEVICES)
    worker = workers.start(ROOST_LOG_LEVEL="INFO")
    # Once through everything, so that what is loaded once is loaded.
    write(make_conversation(ann, bea), ann)
    workers.await_that(lambda: bool(fcm.push_ids("first")) and nothing_is_pending())
    before = psutil.Process(worker.pid).memory_info().rss

    with watched(worker.pid) as most:
        write(group, ann)
        workers.await_that(lambda: len(fcm.posts) >= DEVICES + 1 and nothing_is_pending(), seconds=120)

    targets = Counter(post.target for post in fcm.posts)
    assert len(targets) == DEVICES + 1
    assert set(targets.values()) == {1}
    assert fcm.most_in_flight <= FcmProvider.concurrency
    assert most["threads"] <= MOST_THREADS
    assert most["memory"] - before <= MOST_GROWTH_BYTES, f"from {before} to {most['memory']}"
