"""The history of the operator's own channels: what goes by size and age, and what is removed at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from models import streams
from models.channels import stream_id
from models.operations.history import remove_history, trim_history
from models.queries.streams import history, recover
from models.stream import Publication, Stream
from tests import factories

pytestmark = pytest.mark.django_db


def fill(channel: str, count: int, *, hours_ago: float = 0) -> None:
    """Publications of a channel, one an hour."""
    streams.create(channel)
    stream = Stream.objects.get(id=stream_id(channel))
    now = timezone.now()
    Publication.objects.bulk_create(
        Publication(
            stream=stream,
            offset=number,
            kind="publication",
            data=b"%d" % number,
            created_at=now - timedelta(hours=hours_ago + count - number),
        )
        for number in range(1, count + 1)
    )
    Stream.objects.filter(id=stream.id).update(top=count)


def kept(channel: str) -> list[int]:
    return list(
        Publication.objects.filter(stream=stream_id(channel)).order_by("offset").values_list("offset", flat=True)
    )


def test_size_and_age_decide_what_is_kept() -> None:
    fill("news:a", 10)
    fill("news:b", 3, hours_ago=100)
    fill("other:a", 10)
    fill("lobby", 10)
    group = factories.make_group(factories.make_user())

    count = trim_history(namespace="news", size=4, seconds=2.5 * 3600)

    assert count == 7 + 3
    assert kept("news:a") == [8, 9, 10]
    assert kept("news:b") == []
    assert kept("other:a") == kept("lobby") == list(range(1, 11))
    assert Publication.objects.filter(stream=group.id).exists()


def test_channels_without_a_namespace_are_one_of_their_own() -> None:
    fill("lobby", 5)
    fill("news:a", 5)

    trim_history(namespace="", size=2, seconds=10**6)

    assert kept("lobby") == [4, 5]
    assert kept("news:a") == [1, 2, 3, 4, 5]


def test_the_position_outlives_what_was_trimmed() -> None:
    fill("news:a", 5)
    epoch = recover([("news:a", 5, "")])["news:a"].position.epoch

    trim_history(namespace="news", size=2, seconds=10**6)

    assert recover([("news:a", 2, epoch)])["news:a"].publications is None
    assert [p.offset for p in recover([("news:a", 3, epoch)])["news:a"].publications or []] == [4, 5]
    assert recover([("news:a", 5, epoch)])["news:a"].publications == []


def test_a_removed_history_begins_a_new_epoch_and_offsets_go_on() -> None:
    fill("news:a", 5)
    before = recover([("news:a", 3, "")])["news:a"]

    remove_history(channel="news:a")
    remove_history(channel="never:was")

    page = history("news:a", limit=-1)
    assert page is not None
    publications, position = page
    assert (publications, position.top) == ([], 5)
    assert position.epoch != before.position.epoch
    assert recover([("news:a", 3, before.position.epoch)])["news:a"].publications is None
