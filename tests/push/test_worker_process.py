"""
The real worker process against the local FCM: killed, frozen, stopped and doubled.

What a dead worker held is taken over when its lease ends; the tests end it in the database instead of sleeping.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep, time

import psutil
import pytest
from django.db import connection, transaction

from models.conversation import Conversation
from models.notification import Notification, PushCursor
from models.user import User
from tests.fcm import Answer, Fcm, refusal
from tests.push.scene import make_conversation, make_person, make_phone, nothing_is_pending, states, write
from tests.push.workers import Workers
from tests.servers import ServerProcess

pytestmark = pytest.mark.django_db(transaction=True)

StartWorker = Callable[..., ServerProcess]


@pytest.fixture
def start_worker(fcm: Fcm, tmp_path: Path) -> Iterator[StartWorker]:
    """``start_worker()`` starts a worker on the test's database that pushes through the local FCM."""
    with Workers(fcm, tmp_path) as workers:
        yield workers.start


class Scene:
    """Ann and Bea in a group; Bea has an Android phone and an iPhone, and there are many others."""

    def __init__(self) -> None:
        self.ann, self.bea = make_person("Ann"), make_person("Bea")
        self.android = make_phone(self.bea, target="bea-android-target")
        self.iphone = make_phone(self.bea, target="bea-iphone-target", platform="ios")
        self.group = make_conversation(self.ann, self.bea)

    def write_to_many(self, count: int) -> list[str]:
        """Write to so many other people; return the targets of their phones, every second of which is Apple's."""
        phones = [
            make_phone(make_person(f"Guest{number}"), platform=("android", "ios")[number % 2])
            for number in range(count)
        ]
        for number, phone in enumerate(phones):
            write(make_conversation(self.ann, phone.user), self.ann, f"number {number}")
        return [phone.target for phone in phones]

    @property
    def targets(self) -> list[str]:
        return [self.android.target, self.iphone.target]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def await_that(condition: Callable[[], bool], worker: ServerProcess | None = None, seconds: float = 30.0) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"not within {seconds} s: {states()}\n{worker.log if worker else ''}"
        sleep(0.02)


def let_leases_end() -> None:
    """Let the time pass after which what a worker claimed is free again."""
    Notification.objects.filter(planned_at=None).update(leased_until=None)
    PushCursor.objects.update(leased_until=None)


def cut_off_from_the_database(worker: ServerProcess) -> None:
    """End every connection that this process has to PostgreSQL."""
    ports = [peer.laddr.port for peer in psutil.Process(worker.pid).net_connections() if peer.laddr]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(%s)", [ports])


def write_and_close(conversation: Conversation, sender: User) -> None:
    """For a thread of its own: leave no connection behind."""
    write(conversation, sender)
    connection.close()


def seen(fcm: Fcm, scene: Scene) -> list[list[tuple[str, str]]]:
    return [fcm.phones[target].shown for target in scene.targets]


ONCE = [[("Climbing", "Ann: hello")]] * 2


def test_a_message_is_pushed_to_every_phone(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    worker = start_worker()
    write(scene.group, scene.ann)

    await_that(nothing_is_pending, worker)
    await_that(lambda: len(states()) == 2, worker)

    assert states() == [("sent", ""), ("sent", "")]
    assert seen(fcm, scene) == ONCE


def test_killed_after_the_provider_accepted_and_before_our_commit(
    fcm: Fcm, scene: Scene, start_worker: StartWorker
) -> None:
    for target in scene.targets:
        fcm.script(target, Answer(hold=threading.Event()))
    write(scene.group, scene.ann)
    first = start_worker()
    fcm.wait_for_posts(2)
    first.kill()

    assert states() == []
    assert PushCursor.objects.filter(not_before__isnull=False, attempts=1).count() == 2
    let_leases_end()
    second = start_worker()
    await_that(nothing_is_pending, second)

    assert states() == [("sent", ""), ("sent", "")]
    for target in scene.targets:
        push_ids = fcm.push_ids(target)
        assert len(push_ids) == 2
        assert len(set(push_ids)) == 1, "a repeat bears the same push_id"
    assert seen(fcm, scene) == ONCE


def test_killed_before_the_provider_accepted(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    for target in scene.targets:
        fcm.script(target, Answer(hold=threading.Event(), is_accepted=False))
    write(scene.group, scene.ann)
    first = start_worker()
    fcm.wait_for_posts(2)
    first.kill()

    let_leases_end()
    second = start_worker()
    await_that(nothing_is_pending, second)

    assert states() == [("sent", ""), ("sent", "")]
    assert seen(fcm, scene) == ONCE


def test_killed_again_and_again_under_load_nothing_is_lost_and_each_is_shown_once(
    fcm: Fcm, scene: Scene, start_worker: StartWorker
) -> None:
    fcm.delay_seconds = 0.02
    targets = scene.write_to_many(240)

    for posts in (40, 180):
        worker = start_worker()
        fcm.wait_for_posts(posts)
        worker.kill()
        let_leases_end()
    last = start_worker()
    await_that(nothing_is_pending, last, seconds=60)

    for number, target in enumerate(targets):
        assert len(set(fcm.push_ids(target))) == 1, "a repeat bears the same push_id"
        assert fcm.phones[target].shown == [("Climbing", f"Ann: number {number}")]


def test_cut_off_from_the_database_again_and_again_it_heals(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    fcm.delay_seconds = 0.02
    targets = scene.write_to_many(240)
    worker = start_worker()

    for posts in (40, 120, 200):
        fcm.wait_for_posts(posts)
        cut_off_from_the_database(worker)
        # A claim whose answer was lost is somebody's until its lease ends.
        let_leases_end()
    await_that(lambda: (let_leases_end(), nothing_is_pending())[1], worker, seconds=60)

    assert "Traceback" not in worker.log, worker.log
    assert states() == [("sent", "")] * 240
    assert all(len(set(fcm.push_ids(target))) == 1 for target in targets)


def test_a_frozen_worker_is_replaced_and_harms_nothing_when_it_wakes(
    fcm: Fcm, scene: Scene, start_worker: StartWorker
) -> None:
    release = threading.Event()
    for target in scene.targets:
        fcm.script(target, Answer(hold=release))
    write(scene.group, scene.ann)
    frozen = start_worker()
    fcm.wait_for_posts(2)
    frozen.signal(signal.SIGSTOP)
    let_leases_end()
    second = start_worker()
    await_that(nothing_is_pending, second)

    release.set()
    frozen.signal(signal.SIGCONT)
    write(scene.group, scene.ann, "later")
    await_that(nothing_is_pending, second)
    await_that(lambda: len(states()) == 4, second)

    assert states() == [("sent", "")] * 4
    for target in scene.targets:
        assert fcm.phones[target].shown == [("Climbing", "Ann: hello\nAnn: later")]
        assert len(set(fcm.push_ids(target))) == 2


def test_sigterm_finishes_what_is_in_flight(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    release = threading.Event()
    for target in scene.targets:
        fcm.script(target, Answer(hold=release))
    write(scene.group, scene.ann)
    worker = start_worker()
    fcm.wait_for_posts(2)

    worker.signal(signal.SIGTERM)
    write(scene.group, scene.ann, "for somebody else")
    release.set()
    code = worker.wait()

    assert code == 0
    assert states() == [("sent", ""), ("sent", "")]
    assert Notification.objects.filter(planned_at=None).count() == 1
    assert "worker.stopped" in worker.log


def test_a_message_is_pushed_only_if_it_is_committed(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    worker = start_worker()
    elsewhere = make_conversation(scene.ann, scene.bea, title="Elsewhere")
    with transaction.atomic():
        write(scene.group, scene.ann, "never was")
        # Committed by another connection and pushed: the worker has looked while the first one was open.
        with ThreadPoolExecutor(1) as other:
            other.submit(write_and_close, elsewhere, scene.ann).result()
        await_that(lambda: len(fcm.posts) == 2, worker)
        transaction.set_rollback(True)
    write(scene.group, scene.ann, "hello")

    await_that(lambda: len(states()) == 4 and nothing_is_pending(), worker)

    expected = [("Elsewhere", "Ann: hello"), ("Climbing", "Ann: hello")]
    assert seen(fcm, scene) == [expected, expected]


def test_a_refused_project_keeps_everything_until_it_is_repaired(
    fcm: Fcm, scene: Scene, start_worker: StartWorker
) -> None:
    fcm.always = refusal(403)
    write(scene.group, scene.ann)
    worker = start_worker()
    await_that(lambda: "push.provider_paused" in worker.log, worker)

    fcm.always = None
    await_that(lambda: len(states()) == 2 and nothing_is_pending(), worker)

    assert "push.provider_resumed" in worker.log
    assert seen(fcm, scene) == ONCE
    for phone in (scene.android, scene.iphone):
        phone.refresh_from_db()
        assert phone.target


def test_logs_hold_no_target_and_no_text(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    fcm.script(scene.android.target, refusal(404, "UNREGISTERED"))
    write(scene.group, scene.ann, "a private word")
    worker = start_worker(ROOST_ENV="development")

    await_that(lambda: len(states()) == 2 and nothing_is_pending(), worker)
    worker.stop()

    assert "push.sent" in worker.log
    assert not [secret for secret in (*scene.targets, "a private word", "PRIVATE KEY") if secret in worker.log]


def test_the_heartbeat_is_as_old_as_the_last_look_into_the_outbox(
    fcm: Fcm, scene: Scene, start_worker: StartWorker, tmp_path: Path
) -> None:
    beat = tmp_path / "heartbeat.json"
    write(scene.group, scene.ann)
    worker = start_worker(f"--heartbeat {beat}")

    await_that(lambda: beat.exists() and json.loads(beat.read_text())["providers"]["fcm"]["sent"] == 2, worker)

    state = json.loads(beat.read_text())
    assert (state["pid"], state["planned"]) == (worker.pid, 1)
    assert not state["providers"]["fcm"]["paused"]
    assert time() - state["time"] < 10


def test_the_console_is_the_default_provider(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    worker = start_worker(ROOST_PUSH_PROVIDER="console", ROOST_FCM_CREDENTIALS="")
    write(scene.group, scene.ann)

    await_that(lambda: len(states()) == 2 and nothing_is_pending(), worker)

    assert "| Climbing | Ann: hello" in worker.log
    assert fcm.posts == []


def test_credentials_that_are_none_are_said_in_one_line(fcm: Fcm, scene: Scene, start_worker: StartWorker) -> None:
    worker = start_worker(ROOST_FCM_CREDENTIALS="/nowhere/account.json")

    await_that(lambda: not worker.is_alive)

    assert "ROOST_FCM_CREDENTIALS" in worker.log
    assert "Traceback" not in worker.log
