"""Two processes and a changing membership on the same conversations: one order, without holes, deadlocks or ghosts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from django.db import connection, transaction

from models import channels, streams
from models.conversation import Member
from models.events import MemberAdded, MemberRemoved
from models.ids import new_id
from models.message import Message
from models.queries.streams import gaps
from models.stream import Stream

from .scene import dsn, make_conversation
from .writing_process import Acknowledged

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 30
CONVERSATIONS = 20
ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_keep_one_order_without_holes_or_deadlocks(tmp_path: Path):
    guest, people = new_id(), [new_id() for _ in range(2)]
    conversations = [make_conversation(*people, guest).id for _ in range(CONVERSATIONS)]
    pairs = [(conversation, person) for conversation in conversations for person in (*people, guest)]
    deadlocks = _value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    # One goes through the conversations backwards: without one order of locks that is a deadlock within a second.
    processes = [Process(tmp_path / "one", pairs), Process(tmp_path / "two", pairs[::-1])]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for conversation in conversations:
            _toggle(conversation, guest)
    acknowledged = [pair for process in processes for pair in process.finish()]

    stored = {(m.conversation_id, m.seq, m.id) for m in Message.objects.all()}
    assert len(acknowledged) == len(set(acknowledged)) > 1000
    assert set(acknowledged) == stored
    assert _value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == deadlocks
    messages_of_guest = sum(_check_order(conversation, guest) for conversation in conversations)
    assert messages_of_guest > 0


def _toggle(conversation: UUID, guest: UUID) -> None:
    """Remove somebody, or let them in again: the stream first, then the membership, as every operation does."""
    channel = channels.chat(conversation)
    with transaction.atomic():
        streams.lock([channel])
        removed, _ = Member.objects.filter(conversation=conversation, user=guest).delete()
        if removed:
            streams.append(channel, MemberRemoved(conversation=conversation, user=guest))
        else:
            Member.objects.create(conversation_id=conversation, user_id=guest)
            streams.append(channel, MemberAdded(conversation=conversation, user=guest, role="member"))


def _check_order(conversation: UUID, guest: UUID) -> int:
    """Read a whole stream: no hole, no message of somebody who was not a member then. Counts the guest's messages."""
    channel, is_member, kinds, after = channels.chat(conversation), True, Counter[str](), 0
    top = Stream.objects.get(id=conversation).top
    while publications := gaps([(channel, after, top)]):
        for publication in publications:
            assert publication.offset == after + 1
            after = publication.offset
            if publication.kind != "message.sent":
                is_member = publication.kind == "member.added"
            elif msgspec.json.decode(publication.data)["message"]["sender"] == str(guest):
                assert is_member, f"{channel} has a message at {after} of somebody who was removed before"
                kinds["guest"] += 1
    assert after == top
    return kinds["guest"]


class Process:
    """Another process with a writer of its own."""

    def __init__(self, folder: Path, pairs: list[tuple[UUID, UUID]]) -> None:
        self._result = folder / "acknowledged.json"
        wanted = folder / "pairs.json"
        folder.mkdir()
        wanted.write_bytes(msgspec.json.encode(pairs))
        command = [sys.executable, "-m", "tests.models.writing_process", dsn(), str(SECONDS), wanted, self._result]
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ)

    def finish(self) -> Acknowledged:
        assert self._process.wait(timeout=SECONDS + 30) == 0
        return msgspec.json.decode(self._result.read_bytes(), type=Acknowledged)


def _value(statement: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]
