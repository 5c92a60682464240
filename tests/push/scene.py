"""Rows for push tests: people, phones, conversations, and messages as the writer leaves them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any

from django.utils import timezone

from models import channels, receipts, threads
from models.conversation import Conversation, DeviceReceipt, Member
from models.device import Device
from models.ids import new_id
from models.message import Message
from models.notification import Delivery, Notification, PushClear, PushCursor
from models.receipts import Receipt
from models.stream import Stream
from models.user import User
from push.payload import Look
from push.planner import Connected, Schedule
from push.providers.base import Provider
from push.words import Dictionary
from push.worker import Worker

_numbers = count(1)
LOOK = Look(words_of=Dictionary().words_of)


def make_person(name: str) -> User:
    user: User = User.objects.create(name=name, email=f"{name.lower()}-{next(_numbers)}@example.com")
    return user


def make_phone(user: User, **fields: Any) -> Device:
    # Seen long ago, unless a test says otherwise: what somebody is looking at delays the others.
    long_ago = timezone.now() - timedelta(hours=1)
    values = {"platform": "android", "target": f"target-{next(_numbers)}", "last_seen_at": long_ago, **fields}
    return Device.objects.create(user=user, **values)


def make_conversation(*people: User, kind: str = "group", title: str = "Climbing") -> Conversation:
    conversation = Conversation.objects.create(kind=kind, title=title, member_count=len(people))
    Member.objects.bulk_create(Member(conversation=conversation, user=user) for user in people)
    return conversation


def write(conversation: Conversation, sender: User | None, text: str = "hello", **fields: Any) -> Message:
    """Store a message and its outbox row, as one transaction of the writer does."""
    seq = Message.objects.filter(conversation=conversation).count() + 1
    message = Message.objects.create(
        conversation=conversation,
        seq=seq,
        sender_id=sender and sender.id,
        client_id=str(new_id()),
        text=text,
        **fields,
    )
    Notification.objects.create(
        conversation_id=conversation.id, message_id=message.id, seq=seq, sender_id=message.sender_id
    )
    return message


def acknowledge(device: Device, message: Message) -> None:
    DeviceReceipt.objects.create(device=device, conversation=message.conversation, delivered_seq=message.seq)


def read(user: User, message: Message) -> None:
    """Read a conversation up to a message, on a device that nobody knows."""
    # Receipts never pass a stream's top.
    Stream.objects.update_or_create(
        id=message.conversation_id,
        defaults={"kind": 0, "channel": channels.chat(message.conversation_id), "epoch": "e", "top": message.seq},
    )
    receipts.store([Receipt(user.id, None, message.conversation_id, delivered=message.seq, read=message.seq)])


def states() -> list[tuple[str, str]]:
    """State and reason of everything that became of pushes, sorted."""
    return sorted(Delivery.objects.values_list("state", "reason"))


def nothing_is_pending() -> bool:
    """Everything in the outbox has been planned, and nothing waits for any device."""
    return not (
        Notification.objects.filter(planned_at=None).exists()
        or PushCursor.objects.filter(not_before__isnull=False).exists()
        or PushClear.objects.filter(not_before__isnull=False).exists()
    )


def make_worker(
    *providers: Provider,
    connected: Connected = lambda device_ids: (),
    grace_seconds: float = 5.0,
    elsewhere_seconds: float = 0.0,
    days: float = 7.0,
    look: Look = LOOK,
) -> Worker:
    """A worker whose default provider is the first of these. Nobody has a live socket unless ``connected`` says so."""
    schedule = Schedule(
        default_provider=providers[0].name,
        grace_seconds=grace_seconds,
        active_elsewhere_seconds=elsewhere_seconds,
        ttl_seconds=days * 86_400,
    )
    return Worker(providers, schedule, connected, look=look)


def work(*workers: Worker, until: Callable[[], bool] = nothing_is_pending, seconds: float = 10.0) -> None:
    """Let workers work until the database says so."""
    asyncio.run(_work(workers, until, seconds))


async def _work(workers: Sequence[Worker], until: Callable[[], bool], seconds: float) -> None:
    running = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        async with asyncio.timeout(seconds):
            while not await threads.run(until):
                await asyncio.sleep(0.01)
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
