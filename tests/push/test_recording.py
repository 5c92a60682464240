"""What is planned while a result is being recorded is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic, sleep

import pytest
from django.db import connection, transaction
from django.utils import timezone

from models import screens
from models.deliveries import ClearResult, DuePush, Kind, Planned, Result, State
from models.notification import PushClear, PushCursor
from models.operations import notifications as operations
from models.screens import Read
from tests.push.scene import make_conversation, make_person, make_phone, write

pytestmark = pytest.mark.django_db(transaction=True)


class Scene:
    """Ann has written to Bea, and the push to Bea's phone has been claimed."""

    def __init__(self) -> None:
        self.ann, self.bea = make_person("Ann"), make_person("Bea")
        self.phone = make_phone(self.bea)
        self.group = make_conversation(self.ann, self.bea)
        self.write()
        self.due: DuePush = operations.claim_pushes(provider="memory", limit=8, lease_seconds=60)[0]

    def write(self) -> None:
        message = write(self.group, self.ann)
        now = timezone.now()
        planned = Planned(
            device_id=self.phone.id,
            conversation_id=self.group.id,
            user_id=self.bea.id,
            provider="memory",
            first_seq=message.seq,
            seq=message.seq,
            not_before=now,
            expires_at=now + timedelta(days=1),
        )
        operations.plan([planned])

    @property
    def cursor(self) -> PushCursor:
        return PushCursor.objects.get()


@contextmanager
def recording(result: Result) -> Iterator[None]:
    """Record in another connection, which waits for a lock of ours when the body runs."""

    def record() -> None:
        try:
            operations.record_results([result])
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            # Held by us, so that the other one has taken its snapshot, and waits.
            PushCursor.objects.select_for_update().get()
            recorded: Future[None] = other.submit(record)
            await_a_waiting_lock()
            yield
        recorded.result(timeout=10)


def await_a_waiting_lock() -> None:
    deadline = monotonic() + 10
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            assert monotonic() < deadline, "nobody waits"
            sleep(0.01)


@pytest.mark.parametrize("state", [State.SENT, State.DROPPED])
def test_a_message_that_is_planned_meanwhile_is_still_to_be_sent(state: State) -> None:
    scene = Scene()

    with recording(Result(due=scene.due, kind=Kind.ALERT, state=state, seq=1 if state is State.SENT else 0)):
        scene.write()

    assert scene.cursor.pending_seq == scene.cursor.first_seq == 2
    assert scene.cursor.not_before is not None
    assert scene.cursor.sent_seq == (1 if state is State.SENT else 0)


def test_an_edit_meanwhile_is_still_to_be_shown() -> None:
    scene = Scene()

    with recording(Result(due=scene.due, kind=Kind.ALERT, state=State.SENT, seq=1)):
        PushCursor.objects.update(revised_at=timezone.now())

    assert scene.cursor.revised_at is not None
    assert scene.cursor.not_before is not None


def test_what_is_read_while_a_clear_is_on_the_way_has_a_clear_of_its_own() -> None:
    bea = make_person("Bea")
    phone = make_phone(bea)
    groups = [make_conversation(make_person("Ann"), bea) for _ in range(2)]
    for group in groups:
        PushCursor.objects.create(
            device=phone, conversation=group, user_id=bea.id, provider="memory", shown_seq=1, sent_seq=1
        )
    screens.clear_read([Read(bea.id, groups[0].id, 1, None)])
    PushClear.objects.update(not_before=timezone.now())
    [first] = operations.claim_clears(provider="memory", limit=8, lease_seconds=60)

    screens.clear_read([Read(bea.id, groups[1].id, 1, None)])
    operations.record_clears([ClearResult(due=first, state=State.SENT)])

    assert first.conversations == (groups[0].id,)
    assert PushClear.objects.get().not_before is not None
    PushClear.objects.update(not_before=timezone.now())
    [second] = operations.claim_clears(provider="memory", limit=8, lease_seconds=60)
    assert groups[1].id in second.conversations
    operations.record_clears([ClearResult(due=second, state=State.SENT)])
    assert PushClear.objects.get().not_before is None, "everything has been said"


def test_what_an_alert_has_said_to_one_device_is_still_to_be_said_to_the_other() -> None:
    ann, bea, cleo = make_person("Ann"), make_person("Bea"), make_person("Cleo")
    phones = [make_phone(bea), make_phone(cleo)]
    read, both, news = (make_conversation(ann, bea, cleo) for _ in range(3))
    for phone, conversations in zip(phones, ([read], [read, both]), strict=True):
        for conversation in conversations:
            PushCursor.objects.create(
                device=phone,
                conversation=conversation,
                user_id=phone.user_id,
                provider="memory",
                shown_seq=1,
                sent_seq=1,
            )
    write(news, ann)
    now = timezone.now()
    operations.plan(
        [
            Planned(
                device_id=phone.id,
                conversation_id=news.id,
                user_id=phone.user_id,
                provider="memory",
                first_seq=1,
                seq=1,
                not_before=now,
                expires_at=now + timedelta(days=1),
            )
            for phone in phones
        ]
    )
    screens.clear_read([Read(bea.id, read.id, 1, None), Read(cleo.id, both.id, 1, None)])
    claimed = operations.claim_pushes(provider="memory", limit=8, lease_seconds=60)
    screens.clear_read([Read(cleo.id, read.id, 1, None)])

    operations.record_results([Result(due=due, kind=Kind.ALERT, state=State.SENT, seq=1) for due in claimed])

    left = PushCursor.objects.filter(must_clear=True).values_list("device", "conversation")
    assert list(left) == [(phones[1].id, read.id)], "what was read after the claim was said to nobody"
    waiting = PushClear.objects.filter(not_before__isnull=False).values_list("device", flat=True)
    assert list(waiting) == [phones[1].id]
