"""Receipts: cursors only move forward, whoever sends them in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from models import channels, errors, limits, streams, threads
from models.conversation import Conversation, DeviceReceipt, Member
from models.device import Device
from models.events import Publication
from models.ids import new_id
from models.operations import messages, receipts
from models.receipts import Receipt, ReceiptBatcher
from models.user import User

from .scene import make_conversation, make_person

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard() -> Iterator[list[Publication]]:
    publications: list[Publication] = []
    forget = streams.on_publish(publications.extend)
    yield publications
    forget()


@pytest.fixture
def alice() -> User:
    return make_person("Alice")


@pytest.fixture
def bob() -> User:
    return make_person("Bob")


@pytest.fixture
def phone(bob: User) -> Device:
    return Device.objects.create(user=bob)


@pytest.fixture
def conversation(alice: User, bob: User) -> Conversation:
    """With five messages of Alice."""
    conversation = make_conversation(alice, bob)
    for n in range(5):
        messages.send_message(actor=alice.id, conversation_id=conversation.id, client_id=str(n), text="hello")
    return conversation


def cursors(user: User) -> tuple[int, int]:
    member = Member.objects.get(user=user)
    return member.delivered_seq, member.read_seq


def events(publications: list[Publication], channel: str) -> list[dict[str, object]]:
    return [msgspec.json.decode(p.data) for p in publications if p.channel == channel]


def test_cursors_move_forward_and_never_back(bob: User, phone: Device, conversation: Conversation):
    receipts.mark_read(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=3)
    receipts.mark_read(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=2)
    receipts.mark_delivered(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=4)
    receipts.mark_delivered(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=1)

    assert cursors(bob) == (4, 3)
    assert DeviceReceipt.objects.get(device=phone).delivered_seq == 4


def test_cursors_never_pass_the_top(bob: User, phone: Device, conversation: Conversation):
    receipts.mark_read(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=1 << 40)

    assert cursors(bob) == (5, 5)
    assert DeviceReceipt.objects.get(device=phone).delivered_seq == 5


def test_what_was_read_is_heard_by_the_conversation_and_by_ones_other_devices(
    bob: User, phone: Device, conversation: Conversation, heard: list[Publication]
):
    receipts.mark_read(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=3)
    receipts.mark_read(actor=bob.id, device=phone.id, conversation_id=conversation.id, seq=3)

    own = channels.personal(bob.id)
    assert events(heard, own) == [{"type": "conversation.read", "conversation": str(conversation.id), "seq": 3}]
    assert [p.offset for p in heard if p.channel == own] == [1]
    about = {"conversation": str(conversation.id), "user": str(bob.id), "seq": 3}
    assert events(heard, conversation.channel) == [
        {"type": "receipt.delivered", **about},
        {"type": "receipt.read", **about},
    ]
    assert [p.offset for p in heard if p.channel == conversation.channel] == [0, 0]


def test_large_groups_hear_no_hints(bob: User, conversation: Conversation, heard: list[Publication]):
    Conversation.objects.update(member_count=limits.MAX_MEMBERS_FOR_HINTS + 1)

    receipts.mark_read(actor=bob.id, device=None, conversation_id=conversation.id, seq=3)

    assert {p.channel for p in heard} == {channels.personal(bob.id)}


def test_strangers_have_no_receipts(conversation: Conversation):
    with pytest.raises(errors.ConversationNotFound):
        receipts.mark_read(actor=new_id(), device=None, conversation_id=conversation.id, seq=1)
    with pytest.raises(errors.ConversationNotFound):
        receipts.mark_delivered(actor=new_id(), device=None, conversation_id=new_id(), seq=1)


def test_a_device_of_somebody_else_gets_no_receipt(alice: User, phone: Device, conversation: Conversation):
    receipts.mark_delivered(actor=alice.id, device=phone.id, conversation_id=conversation.id, seq=1)

    assert not DeviceReceipt.objects.exists()


@pytest.mark.parametrize("seq", [-1, 1 << 63])
def test_what_is_no_seq_is_refused(seq: int, bob: User, conversation: Conversation):
    with pytest.raises(errors.InvalidInput):
        receipts.mark_read(actor=bob.id, device=None, conversation_id=conversation.id, seq=seq)
    with pytest.raises(errors.InvalidInput):
        ReceiptBatcher().put(Receipt(bob.id, None, conversation.id, delivered=seq))


async def test_batcher_stores_the_furthest_of_many(alice: User, bob: User, phone: Device, conversation: Conversation):
    batcher = ReceiptBatcher()
    for seq in (2, 5, 1):
        batcher.put(Receipt(bob.id, phone.id, conversation.id, delivered=seq))
        batcher.put(Receipt(bob.id, None, conversation.id, delivered=0, read=seq - 1))
        batcher.put(Receipt(alice.id, None, conversation.id, delivered=1))
    # Somebody who is no member, and a conversation that does not exist, harm nobody else in the batch.
    batcher.put(Receipt(new_id(), new_id(), conversation.id, delivered=1, read=1))
    batcher.put(Receipt(bob.id, phone.id, new_id(), delivered=1, read=1))
    await batcher.stop()

    assert await threads.run(cursors, bob) == (5, 4)
    assert await threads.run(cursors, alice) == (1, 0)
    assert await threads.run(lambda: DeviceReceipt.objects.get().delivered_seq) == 5
    with pytest.raises(errors.Overloaded):
        batcher.put(Receipt(bob.id, None, conversation.id, delivered=1))


async def test_batcher_keeps_receipts_while_the_database_is_away(
    bob: User, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    store, failures = threads.run, [errors.Unavailable()]

    async def run(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return await store(*arguments)

    monkeypatch.setattr(threads, "run", run)
    batcher = ReceiptBatcher()
    batcher.put(Receipt(bob.id, None, conversation.id, delivered=3))
    await batcher.flush()
    batcher.put(Receipt(bob.id, None, conversation.id, delivered=2, read=1))
    await batcher.stop()

    assert await store(cursors, bob) == (3, 1)
