"""Push through real processes: a web process takes a message, a worker wakes whom it has to, through FCM's stand-in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from server.live_devices import MARKER
from tests.fcm import Answer, Fcm
from tests.flows.follower import Follower
from tests.flows.people import Person, make_people
from tests.servers import Deployment

# The doorbell rings at once, and a worker looks every second; the rest is for busy machines.
AT_ONCE_SECONDS = 3.0
GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.02


class Scene:
    """A deployment that has been up for a while, the stand-in for FCM, and Ann, who writes to others."""

    def __init__(self, deployment: Deployment, fcm: Fcm) -> None:
        self.web, self.worker = deployment.webs[0], deployment.workers[0]
        self.fcm = fcm
        self._connection = deployment.connect()
        self._redis = Redis.from_url(deployment.valkey.url)
        # For its first minute Redis cannot know who has a socket, and everybody's push waits.
        self._redis.set(MARKER, 0)
        self.ann, *self._others = make_people(deployment, "Ann", *["Bea"] * 10)

    def close(self) -> None:
        self._redis.close()
        self._connection.close()

    def person(self) -> Person:
        """Somebody whose app has registered for pushes; the device's id serves as its target."""
        person = self._others.pop()
        person.call(self.web, "PUT", "/devices/current", platform="android", target=person.device)
        return person

    async def connect(self, person: Person) -> Follower:
        """Open a socket, and wait until workers can know of it."""
        follower = await Follower(person, [self.web]).start()
        await until(lambda: bool(self._redis.exists(f"roost:live:{person.device}")), "the socket in Redis")
        return follower

    def write(self, *people: Person, text: str = "hello") -> str:
        """Make a group with these people and send a message to it; return the conversation."""
        group = self.ann.make_group(self.web, "Tea", *people)
        self.ann.send(self.web, group, text)
        return group

    def pushes(self, person: Person) -> list[str]:
        """The push ids that went to a person's device, repetitions included."""
        return self.fcm.push_ids(person.device)

    def shown(self, person: Person) -> list[str]:
        return [body for _, body in self.fcm.phones[person.device].shown]

    async def until_pushed(self, person: Person, times: int = 1) -> None:
        await until(lambda: len(self.pushes(person)) >= times, f"push number {times}")

    async def until_sent(self, person: Person) -> None:
        """Wait until no push to a device is under way or waits."""
        await until(lambda: not self.waiting(person), "the end of all pushes")

    def waiting(self, person: Person) -> int:
        """How many conversations have a push to a person's device that is under way or waits."""
        row = self._connection.execute(
            "SELECT count(*) FROM messaging_pushcursor WHERE device_id = %s AND not_before IS NOT NULL", [person.device]
        ).fetchone()
        return int(row[0]) if row else 0

    def outcomes(self, person: Person) -> list[tuple[str, str]]:
        """State and reason of each push to a person's device."""
        rows = self._connection.execute(
            "SELECT state, reason FROM messaging_delivery WHERE device_id = %s", [person.device]
        )
        return [(str(state), str(reason)) for state, reason in rows]

    def forget_seeing(self, person: Person) -> None:
        self._connection.execute(
            "UPDATE messaging_device SET last_seen_at = now() - interval '59 days' WHERE id = %s", [person.device]
        )

    def was_just_seen(self, person: Person) -> bool:
        """Whether the device's row says that it is in use."""
        row = self._connection.execute(
            "SELECT last_seen_at > now() - interval '1 minute' FROM messaging_device WHERE id = %s", [person.device]
        ).fetchone()
        return bool(row and row[0])

    def let_leases_end(self) -> None:
        """Let the minute pass after which what a dead worker held is free again."""
        self._connection.execute("UPDATE messaging_notification SET leased_until = NULL WHERE planned_at IS NULL")
        self._connection.execute("UPDATE messaging_pushcursor SET leased_until = NULL")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """One deployment for all stories; each has people of its own."""
    with Fcm() as fcm:
        environment = {
            "ROOST_PUSH_PROVIDER": "fcm",
            "ROOST_FCM_CREDENTIALS": fcm.credentials,
            "ROOST_FCM_BASE_URL": fcm.url,
        }
        with Deployment(webs=1, workers=1, environment=environment) as deployment:
            scene = Scene(deployment, fcm)
            try:
                yield scene
            finally:
                scene.close()


async def until(holds: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(LOOK_SECONDS)


async def test_device_without_a_socket_is_pushed_to_at_once(scene: Scene) -> None:
    bea = scene.person()
    began = time.monotonic()
    scene.write(bea)

    await scene.until_pushed(bea)

    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert scene.fcm.phones[bea.device].shown == [("Tea", "Ann: hello")]


async def test_device_that_acknowledges_gets_no_push(scene: Scene) -> None:
    bea = scene.person()
    follower = await scene.connect(bea)
    group = scene.write(bea)
    await follower.until(lambda: follower.texts(f"chat:{group}") == ["hello"], "the message")
    seq = follower.seen[f"chat:{group}"][-1]["data"]["message"]["seq"]

    await follower.call("conversation.delivered", {"conversation": group, "seq": seq})

    await until(lambda: scene.outcomes(bea) == [("dropped", "acknowledged")], "end of the delivery")
    assert scene.pushes(bea) == []
    await follower.stop()


async def test_connected_device_that_does_not_acknowledge_is_pushed_to_after_the_grace(scene: Scene) -> None:
    bea = scene.person()
    follower = await scene.connect(bea)
    began = time.monotonic()
    scene.write(bea)

    await scene.until_pushed(bea)

    assert GRACE_SECONDS - 0.5 < time.monotonic() - began < GRACE_SECONDS + AT_ONCE_SECONDS
    assert scene.shown(bea) == ["Ann: hello"]
    await follower.stop()


async def test_a_half_open_socket_costs_no_more_than_the_grace(scene: Scene) -> None:
    bea = scene.person()
    follower = await scene.connect(bea)
    follower.freeze()
    began = time.monotonic()
    group = scene.write(bea)

    await scene.until_pushed(bea)

    assert GRACE_SECONDS - 0.5 < time.monotonic() - began < GRACE_SECONDS + AT_ONCE_SECONDS
    assert scene.shown(bea) == ["Ann: hello"]
    assert follower.texts(f"chat:{group}") == []
    await follower.stop()


async def test_a_device_is_seen_as_long_as_it_is_connected(scene: Scene) -> None:
    bea = scene.person()
    scene.forget_seeing(bea)
    follower = await scene.connect(bea)

    await follower.stop()

    await until(lambda: scene.was_just_seen(bea), "sign of life in the device's row")


async def test_a_socket_that_closes_without_acknowledging_ends_the_grace(scene: Scene) -> None:
    bea = scene.person()
    follower = await scene.connect(bea)
    group = scene.write(bea)
    await follower.until(lambda: follower.texts(f"chat:{group}") == ["hello"], "the message")
    began = time.monotonic()

    await follower.stop()
    await scene.until_pushed(bea)

    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert scene.shown(bea) == ["Ann: hello"]


async def test_worker_killed_after_the_provider_accepted_loses_nothing(scene: Scene) -> None:
    bea = scene.person()
    scene.fcm.script(bea.device, Answer(hold=threading.Event()))
    group = scene.write(bea, text="accepted")
    await scene.until_pushed(bea)
    assert scene.shown(bea) == ["Ann: accepted"]
    assert scene.waiting(bea) == 1

    scene.worker.kill()
    scene.ann.send(scene.web, group, "while nobody works")
    scene.let_leases_end()
    scene.worker.start()
    await scene.until_pushed(bea, times=2)
    await scene.until_sent(bea)

    # The repeat may have been planned before the second message was, or with it.
    assert scene.shown(bea) == ["Ann: accepted\nAnn: while nobody works"]
    first, second, *_ = scene.pushes(bea)
    assert first == second, "a repeat bears the same push_id"
    assert set(scene.outcomes(bea)) == {("sent", "")}


async def test_device_that_has_logged_out_gets_no_push(scene: Scene) -> None:
    bea, witness = scene.person(), scene.person()
    bea.log_out(scene.web)

    scene.write(bea, witness)
    # Devices of one message are planned together, so whoever was to be woken is known by now.
    await scene.until_pushed(witness)
    await scene.until_sent(witness)

    assert scene.outcomes(bea) == []
    assert scene.pushes(bea) == []


async def test_session_revoked_while_its_push_waits_gets_none(scene: Scene) -> None:
    bea = scene.person()
    follower = await scene.connect(bea)
    scene.write(bea)
    await until(lambda: scene.waiting(bea) == 1, "waiting push")

    (session,) = bea.call(scene.web, "GET", "/sessions")["sessions"]
    bea.call(scene.web, "DELETE", f"/sessions/{session['id']}")

    await until(lambda: scene.outcomes(bea) == [("dropped", "logged_out")], "end of the delivery")
    assert scene.pushes(bea) == []
    assert set(follower.close_codes) == {3500}
    await follower.stop()
