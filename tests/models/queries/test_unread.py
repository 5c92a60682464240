"""Unread counts after every combination of send, edit, delete, read and leave, against a model that is plain to see."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.operations import conversations, members, messages, receipts
from models.queries import conversations as queries
from tests.factories import make_group, make_user, send

pytestmark = pytest.mark.django_db

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "edit", "delete", "read", "rejoin", "rename"]), st.integers(0, 2), st.integers(0, 9)
    ),
    max_size=25,
)


class Model:
    """What everybody sees, kept in the plainest way: a list of messages, and where each person is."""

    def __init__(self, people: int) -> None:
        self.messages: list[dict[str, Any]] = []
        self.floor = [0] * people
        self.read = [0] * people

    def unread(self, person: int) -> int:
        return sum(
            message["seq"] > max(self.floor[person], self.read[person])
            and message["sender"] != person
            and not message["deleted"]
            for message in self.messages
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_unread_counts_are_right_after_every_combination(steps: list[tuple[str, int, int]], db: None) -> None:
    with transaction.atomic():
        compare(steps)
        transaction.set_rollback(True)


def compare(steps: list[tuple[str, int, int]]) -> None:
    people = [make_user(f"Person {number}") for number in range(3)]
    group = make_group(*people).id
    model = Model(len(people))
    for what, who, which in steps:
        STEP[what](model, people, group, who, which)
        for number, person in enumerate(people):
            shown = queries.get_conversation(actor=person.id, conversation_id=group)
            assert shown.unread == model.unread(number), (what, number)
            assert queries.total_unread(actor=person.id) == model.unread(number)


def _top(people: list[Any], group: UUID) -> int:
    return queries.get_conversation(actor=people[0].id, conversation_id=group).top_seq


def _send(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    id = send(people[who], group, f"text {which}")
    model.messages.append({"id": id, "seq": _top(people, group), "sender": who, "deleted": False})


def _of(model: Model, who: int, which: int) -> dict[str, Any] | None:
    # Whoever left and came back does not see what was before.
    own = [
        message
        for message in model.messages
        if message["sender"] == who and not message["deleted"] and message["seq"] > model.floor[who]
    ]
    return own[which % len(own)] if own else None


def _edit(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    if message := _of(model, who, which):
        messages.edit_message(actor=people[who].id, message_id=message["id"], text=f"edited {which}")


def _delete(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    if message := _of(model, who, which):
        messages.delete_message(actor=people[who].id, message_id=message["id"])
        message["deleted"] = True


def _read(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    top = _top(people, group)
    seq = max(top - which, 1)
    receipts.mark_read(actor=people[who].id, device=None, conversation_id=group, seq=seq)
    model.read[who] = max(model.read[who], min(seq, top))


def _rejoin(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    if who == 0:
        return
    members.leave(actor=people[who].id, conversation_id=group)
    members.add_member(actor=people[0].id, conversation_id=group, user_id=people[who].id)
    shown = queries.get_conversation(actor=people[who].id, conversation_id=group)
    model.floor[who], model.read[who] = shown.joined_seq, 0


def _rename(model: Model, people: list[Any], group: UUID, who: int, which: int) -> None:
    conversations.rename(actor=people[0].id, conversation_id=group, title=f"Title {which}")


STEP = {"send": _send, "edit": _edit, "delete": _delete, "read": _read, "rejoin": _rejoin, "rename": _rename}
