"""
People and conversations for a measurement, made in bulk; run inside a deployment by ``manage.py shell``.

Each function prints one JSON object: what the load client has to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from models import channels, streams
from models.conversation import Conversation, Member
from models.device import Device, Session
from models.ids import new_id
from models.message import Message
from models.notification import Notification
from models.queries.streams import read_positions
from models.stream import Stream
from models.user import User
from server import wiring

from .said import CONVERSATIONS, NEIGHBOURS

# The soak goes on for longer than the tokens of apps live.
TOKEN_SECONDS = 4 * 3600


def make(people: int, in_group: int) -> str:
    """
    Make that many people, each alone in a group of one, in a direct conversation, and in a group of all.

    The first ``in_group`` share another group.
    """
    users, tokens = _people(people)
    return json.dumps(
        {
            "tokens": tokens,
            "shared": str(_group(users[:in_group]).id),
            "everyone": str(_group(users).id),
            "own": [str(_group([user]).id) for user in users],
            "pairs": [str(id) for pair in zip(users[::2], users[1::2], strict=False) for id in [_pair(*pair)] * 2],
        }
    )


def make_returning(people: int) -> str:
    """Make people with twenty groups each, who know where they left off in all of them: at the beginning."""
    users, tokens = _people(people)
    connects: list[str] = []
    sends: list[str] = []
    for number in range(0, people, NEIGHBOURS):
        groups = [_group(users[number : number + NEIGHBOURS]) for _ in range(CONVERSATIONS)]
        positions = read_positions(group.channel for group in groups)
        subs = {
            name: {"recover": True, "epoch": position.epoch, "offset": position.top}
            for name, position in positions.items()
        }
        for token in tokens[number : number + NEIGHBOURS]:
            connects.append(json.dumps({"id": 1, "connect": {"token": token, "subs": subs}}))
        # The first of them write one message in each.
        sends += [str(group.id) for group in groups]
    writers = [n for number in range(0, people, NEIGHBOURS) for n in range(number, number + CONVERSATIONS)]
    return json.dumps({"connects": connects, "writers": writers, "conversations": sends})


def make_pushed(conversations: int, devices: int) -> str:
    """Make one person with direct conversations and a group; all others have a phone that pushes go to."""
    [sender], [token] = _people(1)
    others = _people(max(conversations, devices))[0]
    for device in (phones := list(Device.objects.filter(user__in=others))):
        device.platform, device.target = "android", f"bench-{device.id}"
    Device.objects.bulk_update(phones, ["platform", "target"], batch_size=1_000)
    directs = [str(_pair(sender, other)) for other in others[:conversations]]
    group = _group([sender, *others[:devices]])
    return json.dumps({"sender": str(sender.id), "token": token, "directs": directs, "group": str(group.id)})


def write_in_directs(sender: str) -> str:
    """Write a message of theirs in each direct conversation, in one transaction, as the writer leaves them."""
    directs = Stream.objects.filter(id__in=Conversation.objects.filter(kind="direct").values("id"))
    with transaction.atomic():
        messages = Message.objects.bulk_create(
            Message(conversation_id=id, seq=top + 1, sender_id=sender, client_id=str(new_id()), text="x" * 200)
            for id, top in directs.values_list("id", "top")
        )
        Notification.objects.bulk_create(
            Notification(conversation_id=m.conversation_id, message_id=m.id, seq=m.seq, sender_id=m.sender_id)
            for m in messages
        )
        directs.update(top=F("top") + 1)
    return json.dumps({"written": len(messages)})


def make_tokens(people: int) -> str:
    """Make people who have nothing but a session."""
    return json.dumps({"tokens": _people(people)[1]})


def _people(count: int) -> tuple[list[User], list[str]]:
    users = User.objects.bulk_create([User(name=f"Person {n}", password="!") for n in range(count)])
    devices = Device.objects.bulk_create([Device(user=user) for user in users])
    expires_at = timezone.now() + timedelta(days=1)
    sessions = Session.objects.bulk_create(
        [
            Session(user=user, device=device, refresh_hash=device.id.bytes, expires_at=expires_at)
            for user, device in zip(users, devices, strict=True)
        ]
    )
    # Each has a stream from registration on.
    streams.create(*(channels.personal(user.id) for user in users))
    make_token = wiring.access_tokens().make
    return users, [
        make_token(user=s.user_id, session=s.id, device=s.device_id, lifetime_seconds=TOKEN_SECONDS) for s in sessions
    ]


def _group(users: Sequence[User]) -> Conversation:
    return _filled(Conversation(id=new_id(), kind="group", title="bench", member_count=len(users)), users)


def _pair(one: User, other: User) -> UUID:
    low, high = sorted((one.id, other.id))
    direct = Conversation(id=new_id(), kind="direct", direct_low=low, direct_high=high, member_count=2)
    return _filled(direct, [one, other]).id


def _filled(conversation: Conversation, users: Sequence[User]) -> Conversation:
    conversation.save(force_insert=True)
    streams.create(conversation.channel)
    Member.objects.bulk_create([Member(conversation=conversation, user=user) for user in users])
    return conversation
