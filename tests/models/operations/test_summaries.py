"""Who is written to about unread messages: whoever heard nothing for long, once, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from models.conversation import Member
from models.device import Device
from models.ids import new_id
from models.message import Message
from models.notification import Delivery, PushCursor
from models.operations import messages, summaries, users
from models.operations.summaries import Summary
from models.user import User
from tests.factories import make_device, make_direct, make_group, make_user, send

pytestmark = pytest.mark.django_db

HOURS = 12.0


def ago(hours: float) -> Any:
    return timezone.now() - timedelta(hours=hours)


def write(sender: User, conversation: UUID, *, hours: float, **fields: Any) -> UUID:
    """A message that is so many hours old."""
    id = send(sender, conversation, "a secret", **fields)
    Message.objects.filter(id=id).update(created_at=ago(hours))
    return id


@dataclass
class Scene:
    """Ann wrote to Bea yesterday, alone and in a group, and Bea has not been seen for two days."""

    ann: User
    bea: User
    phone: Device
    direct: UUID
    group: UUID
    message: UUID


@pytest.fixture
def scene() -> Scene:
    ann, bea = make_user("Ann"), make_user("Bea")
    phone = make_device(bea, locale="de", last_seen_at=ago(48))
    make_device(bea, locale="fr", last_seen_at=ago(72))
    direct, group = make_direct(ann, bea).id, make_group(ann, bea).id
    message = write(ann, direct, hours=24)
    write(ann, group, hours=20)
    write(ann, group, hours=1)
    return Scene(ann, bea, phone, direct, group, message)


def claim() -> list[Summary]:
    return summaries.claim(hours=HOURS).summaries


def test_who_was_away_is_told_how_much_waits(scene: Scene) -> None:
    (summary,) = claim()

    assert (summary.user_id, summary.email, summary.locale) == (scene.bea.id, scene.bea.email, "de")
    assert (summary.messages, summary.conversations) == (3, 2)
    assert set(summary.device_ids) == set(Device.objects.filter(user=scene.bea).values_list("id", flat=True))


def members(scene: Scene) -> Any:
    return Member.objects.filter(user=scene.bea)


def sent_delivery(scene: Scene, *, state: str = "sent", hours: float = 6) -> None:
    made = Delivery.objects.create(
        push_id=new_id(),
        device_id=scene.phone.id,
        user_id=scene.bea.id,
        conversation_id=scene.group,
        kind="alert",
        provider="memory",
        state=state,
    )
    Delivery.objects.filter(id=made.id).update(created_at=ago(hours))


def sent_cursor(scene: Scene, *, hours: float) -> None:
    PushCursor.objects.create(
        device=scene.phone,
        conversation_id=scene.group,
        user_id=scene.bea.id,
        provider="memory",
        sent_at=ago(hours),
    )


def mute(scene: Scene) -> None:
    members(scene).update(muted_until=timezone.now() + timedelta(days=1))


REASONS: dict[str, Callable[[Scene], Any]] = {
    "seen": lambda scene: Device.objects.filter(id=scene.phone.id).update(last_seen_at=ago(11)),
    "pushed": sent_delivery,
    "pushed, and the delivery is not kept": lambda scene: sent_cursor(scene, hours=6),
    "never logged in": lambda scene: Device.objects.filter(user=scene.bea).delete(),
    "wants none": lambda scene: users.update_me(actor=scene.bea.id, wants_summaries=False),
    "inactive": lambda scene: User.objects.filter(id=scene.bea.id).update(is_active=False),
    "without an address": lambda scene: User.objects.filter(id=scene.bea.id).update(email=None),
    "read": lambda scene: members(scene).update(read_seq=100),
    "muted": mute,
    "no notifications": lambda scene: members(scene).update(notification_level="none"),
    "mentions only": lambda scene: members(scene).update(notification_level="mentions"),
    "hidden": lambda scene: members(scene).update(is_hidden=True),
    "joined later": lambda scene: members(scene).update(joined_seq=100),
    "blocked": lambda scene: users.block(actor=scene.bea.id, user_id=scene.ann.id),
    "own": lambda scene: Message.objects.update(sender_id=scene.bea.id),
    "system": lambda scene: Message.objects.update(kind="system"),
    "deleted": lambda scene: Message.objects.update(deleted_at=timezone.now(), text=None, data=None),
    "not that old": lambda scene: Message.objects.update(created_at=ago(11)),
    "told": lambda scene: User.objects.filter(id=scene.bea.id).update(summarized_at=ago(6)),
    "told of all": lambda scene: (
        User.objects.filter(id=scene.bea.id).update(summarized_at=ago(13)),
        Message.objects.filter(created_at__gt=ago(2)).delete(),
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_nobody_is_told_for_nothing(scene: Scene, reason: str) -> None:
    REASONS[reason](scene)

    assert claim() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: sent_delivery(scene, state="dead"),
        lambda scene: sent_delivery(scene, hours=13),
        lambda scene: sent_cursor(scene, hours=13),
        lambda scene: User.objects.filter(id=scene.bea.id).update(summarized_at=ago(13)),
        lambda scene: members(scene).update(muted_until=ago(1)),
    ],
)
def test_what_is_long_ago_or_came_to_nothing_is_no_reason(scene: Scene, change: Callable[[Scene], Any]) -> None:
    change(scene)

    assert [summary.user_id for summary in claim()] == [scene.bea.id]


def test_muted_conversations_are_not_counted(scene: Scene) -> None:
    members(scene).filter(conversation=scene.group).update(muted_until=timezone.now() + timedelta(days=1))

    (summary,) = claim()

    assert (summary.messages, summary.conversations) == (1, 1)


def test_where_only_mentions_are_wanted_mentions_count(scene: Scene) -> None:
    members(scene).update(notification_level="mentions")
    write(scene.ann, scene.group, hours=15, mentions=[scene.bea.id])

    (summary,) = claim()

    assert (summary.messages, summary.conversations) == (1, 1)


def test_a_summary_comes_once_until_there_is_something_new(scene: Scene) -> None:
    first, again = claim(), claim()
    User.objects.filter(id=scene.bea.id).update(summarized_at=ago(13))
    Message.objects.filter(created_at__gt=ago(2)).update(created_at=ago(14))
    nothing_new = claim()
    write(scene.ann, scene.direct, hours=0)
    new = claim()

    assert [len(found) for found in (first, again, nothing_new, new)] == [1, 0, 0, 1]
    assert new[0].messages == 4


@pytest.mark.parametrize("before", [None, 48.0])
def test_what_was_not_sent_is_claimed_again(scene: Scene, before: float | None) -> None:
    at = ago(before) if before else None
    User.objects.filter(id=scene.bea.id).update(summarized_at=at)

    (summary,) = claim()
    summaries.release(summary)

    assert User.objects.get(id=scene.bea.id).summarized_at == at
    assert len(claim()) == 1


def test_an_old_claim_takes_nothing_back(scene: Scene) -> None:
    (summary,) = claim()
    User.objects.filter(id=scene.bea.id).update(summarized_at=timezone.now())

    summaries.release(summary)

    assert claim() == []


def test_people_are_looked_at_in_pages(scene: Scene) -> None:
    for _ in range(4):
        other = make_user("Cleo")
        make_device(other, last_seen_at=ago(48))
        write(scene.ann, make_direct(scene.ann, other).id, hours=24)

    found, after, pages = [], summaries.FIRST, 0
    while after is not None:
        claimed = summaries.claim(hours=HOURS, after=after, page=2)
        found += claimed.summaries
        after, pages = claimed.after, pages + 1

    assert len(found) == len({summary.user_id for summary in found}) == 5
    assert pages == User.objects.count() // 2 + 1


def test_a_full_page_of_claims_goes_on_behind_its_last(scene: Scene) -> None:
    for _ in range(2):
        other = make_user("Cleo")
        make_device(other, last_seen_at=ago(48))
        write(scene.ann, make_direct(scene.ann, other).id, hours=24)

    first = summaries.claim(hours=HOURS, most=2)
    # Even if nothing came of them: who cannot be written to must not stand before the others for ever.
    for summary in first.summaries:
        summaries.release(summary)
    second = summaries.claim(hours=HOURS, most=2, after=first.after or summaries.FIRST)

    assert len(first.summaries) == 2
    assert len(second.summaries) == 1
    assert second.after is None


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_has_it(scene: Scene) -> None:
    def work(_: int) -> int:
        try:
            return len(claim())
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(work, range(16)))

    assert sum(claimed) == 1


def test_reading_ends_it(scene: Scene) -> None:
    messages.delete_message(actor=scene.ann.id, message_id=scene.message)
    members(scene).filter(conversation=scene.group).update(read_seq=100)

    assert claim() == []
