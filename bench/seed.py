"""
People and conversations for a measurement, made in bulk; run inside a deployment by ``manage.py shell``.

Prints one JSON object: tokens, the id of a group of everyone, and for each person that of a group of their own and of a
direct conversation with somebody.
"""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID

from django.utils import timezone

from models.conversation import Conversation, Member
from models.device import Device, Session
from models.ids import new_id
from models.stream import Stream
from models.user import User
from server import wiring


def make(people: int, in_group: int) -> str:
    """Make that many people, each alone in a group of one; the first ``in_group`` share one group."""
    users = User.objects.bulk_create([User(name=f"Person {n}", password="!") for n in range(people)])
    devices = Device.objects.bulk_create([Device(user=user) for user in users])
    expires_at = timezone.now() + timedelta(days=1)
    sessions = Session.objects.bulk_create(
        [
            Session(user=user, device=device, refresh_hash=device.id.bytes, expires_at=expires_at)
            for user, device in zip(users, devices, strict=True)
        ]
    )
    tokens = wiring.access_tokens()
    return json.dumps(
        {
            "tokens": [tokens.make(user=s.user_id, session=s.id, device=s.device_id) for s in sessions],
            "shared": str(_group(users[:in_group])),
            "own": [str(_group([user])) for user in users],
            "pairs": [str(id) for pair in zip(users[::2], users[1::2], strict=False) for id in [_pair(*pair)] * 2],
        }
    )


def _group(users: list[User]) -> UUID:
    return _filled(Conversation(id=new_id(), kind="group", title="bench", member_count=len(users)), users)


def _pair(one: User, other: User) -> UUID:
    low, high = sorted((one.id, other.id))
    direct = Conversation(id=new_id(), kind="direct", direct_low=low, direct_high=high, member_count=2)
    return _filled(direct, [one, other])


def _filled(conversation: Conversation, users: list[User]) -> UUID:
    conversation.save(force_insert=True)
    Stream.objects.create(
        id=conversation.id, kind=Stream.Kind.CONVERSATION, channel=conversation.channel, epoch="benchmark"
    )
    Member.objects.bulk_create([Member(conversation=conversation, user=user) for user in users])
    return conversation.id
