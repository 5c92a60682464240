"""The outbox row: written with the message, in its transaction, or not at all."""

import asyncio
from uuid import UUID

import pytest
from django.db import transaction

from models import threads
from models.errors import ConversationNotFound
from models.ids import new_id
from models.notification import Notification
from models.operations.messages import send_message
from push.providers.memory import MemoryProvider
from tests.models.scene import draft, make_conversation, make_person, writing
from tests.push.scene import make_phone, make_worker, work

pytestmark = pytest.mark.django_db(transaction=True)


def outbox() -> list[UUID]:
    return list(Notification.objects.order_by("seq").values_list("message_id", flat=True))


def test_sending_leaves_one_row_and_pushes() -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    conversation, phone = make_conversation(ann, bea), make_phone(bea)
    provider = MemoryProvider()

    message = send_message(actor=ann.id, conversation_id=conversation.id, client_id="1", text="hello")
    work(make_worker(provider))

    assert outbox() == [message.id]
    assert [(push.target, push.data["message"]) for push in provider.sent] == [(phone.target, str(message.id))]


def test_a_message_that_is_rolled_back_leaves_none() -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    conversation = make_conversation(ann, bea)

    with transaction.atomic():
        send_message(actor=ann.id, conversation_id=conversation.id, client_id="1", text="never was")
        transaction.set_rollback(True)

    assert outbox() == []


def test_sending_again_leaves_no_second_one() -> None:
    ann = make_person("Ann")
    conversation = make_conversation(ann, make_person("Bea"))

    for _ in range(2):
        send_message(actor=ann.id, conversation_id=conversation.id, client_id="1", text="hello")

    assert len(outbox()) == 1


def test_a_refused_message_leaves_none() -> None:
    stranger = make_person("Cleo")
    conversation = make_conversation(make_person("Ann"), make_person("Bea"))

    with pytest.raises(ConversationNotFound):
        send_message(actor=stranger.id, conversation_id=conversation.id, client_id="1", text="hello")

    assert outbox() == []


async def test_the_writer_leaves_one_row_for_each_message_of_a_batch() -> None:
    ann = await threads.run(make_person, "Ann")
    conversation = await threads.run(make_conversation, ann.id, new_id())

    async with writing() as writer:
        sending = [writer.send(draft(conversation.id, ann.id, str(number))) for number in range(20)]
        stored = await asyncio.gather(*sending)

    assert await threads.run(outbox) == [message.id for message in stored]


def test_a_large_group_costs_its_sender_one_row() -> None:
    people = [make_person(f"Person{number}") for number in range(50)]
    conversation = make_conversation(*people)

    send_message(actor=people[0].id, conversation_id=conversation.id, client_id="1", text="hello")

    assert len(outbox()) == 1
