"""Demo accounts for a first look: three people, a group, a direct conversation and a feed. Never in production."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from models.operations import conversations, members, messages
from models.user import User

from .accounts import people

PASSWORD = "roost-demo"  # noqa: S105 - printed at every start, refused in production


class Person(NamedTuple):
    """A demo account; the e-mail address is the log-in."""

    name: str

    @property
    def email(self) -> str:
        return f"{self.name.lower()}@example.com"


PEOPLE = (Person("Alice"), Person("Bob"), Person("Carol"))

GROUP = (
    ("Alice", "Welcome to Roost! This is a group of three."),
    ("Bob", "Open this page in a second browser and log in as somebody else."),
    ("Carol", "Messages arrive at once, and nothing is lost when the server restarts. Try it: Ctrl-C and `make run`."),
    ("Alice", "You can edit and delete what you wrote, reply to a message, and see who is typing."),
)
DIRECT = (("Bob", "Hi Alice, lunch tomorrow?"), ("Alice", "Gladly. The usual place?"))
FEED = (
    ("Carol", "A feed: few write, many read. Follow it to keep it on your list."),
    ("Carol", "Its author pays for one insert, however many follow."),
)


@transaction.atomic
def load() -> None:
    """Make the demo accounts and what they said; what exists already stays as it is."""
    if User.objects.filter(email=PEOPLE[0].email).exists():
        return
    ids = {person.name: people.create(email=person.email, password=PASSWORD, name=person.name).id for person in PEOPLE}
    alice, bob, carol = (ids[person.name] for person in PEOPLE)
    group = conversations.create_group(actor=alice, title="Tea time", member_ids=[bob, carol])
    _say(ids, group.id, GROUP)
    _say(ids, conversations.create_direct(actor=alice, user_id=bob).id, DIRECT)
    feed = conversations.create_feed(actor=carol, title="Release notes")
    members.follow(actor=alice, conversation_id=feed.id)
    _say(ids, feed.id, FEED)


def _say(ids: Mapping[str, UUID], conversation_id: UUID, lines: tuple[tuple[str, str], ...]) -> None:
    for number, (name, text) in enumerate(lines):
        messages.send_message(actor=ids[name], conversation_id=conversation_id, client_id=f"demo-{number}", text=text)
