"""For tests of streams and the writer: people, conversations with their streams, a writer on the test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection
from psycopg.conninfo import make_conninfo

from models import channels, streams
from models.conversation import Conversation, Member
from models.events import Publication
from models.ids import new_id
from models.user import User
from models.writer import MessageDraft, Writer

_numbers = count(1)


def make_person(name: str = "Alice") -> User:
    return User.objects.create(name=name, email=f"{name.lower()}-{next(_numbers)}@example.com")


def make_conversation(*people: UUID | User, kind: str = "group", **fields: Any) -> Conversation:
    """A conversation with its stream; the first of the people is its owner."""
    ids = [person.id if isinstance(person, User) else person for person in people]
    if kind == "direct":
        fields["direct_low"], fields["direct_high"] = sorted(ids)
    conversation = Conversation.objects.create(kind=kind, member_count=len(ids), **fields)
    streams.create(conversation.channel, *(channels.personal(user) for user in ids))
    Member.objects.bulk_create(
        Member(conversation=conversation, user_id=user, role="member" if place else "owner")
        for place, user in enumerate(ids)
    )
    return conversation


def make_groups(size: int) -> list[tuple[UUID, UUID]]:
    """As many groups of one; each as (conversation, sender)."""
    pairs = []
    for _ in range(size):
        sender = new_id()
        pairs.append((make_conversation(sender).id, sender))
    return pairs


def draft(conversation: UUID, sender: UUID, text: str = "hello", **fields: Any) -> MessageDraft:
    values: dict[str, Any] = {"client_id": str(new_id()), **fields}
    return MessageDraft(conversation=conversation, sender=sender, text=text, **values)


def dsn() -> str:
    """Where the test's database is, for connections that are not Django's."""
    settings = connection.settings_dict
    return make_conninfo(
        host=settings["HOST"] or None,
        port=settings["PORT"] or None,
        user=settings["USER"] or None,
        password=settings["PASSWORD"] or None,
        dbname=settings["NAME"],
    )


@asynccontextmanager
async def writing(
    on_committed: Callable[[list[Publication]], None] = lambda publications: None, *, where: str = "", **options: Any
) -> AsyncIterator[Writer]:
    """A writer that is started, and stopped in the end."""
    writer = Writer(where or dsn(), on_committed=on_committed, **options)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop(10)


async def rows(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask the test's database, as somebody else would."""
    async with await psycopg.AsyncConnection.connect(dsn(), autocommit=True) as db:
        cursor = await db.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


async def value(statement: str, *parameters: object) -> Any:
    return (await rows(statement, *parameters))[0][0]
