"""The push loop through the local APNs: targets that are gone, and answers that are lost."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from models.conversation import Conversation
from models.device import Device
from models.notification import Delivery, Notification, PushCursor
from push import backoff, worker
from push.providers.apns import ApnsKey, ApnsProvider
from tests.apns import KEY_ID, TEAM_ID, TOPIC, Answer, Apns, in_thread
from tests.push.scene import make_conversation, make_person, make_phone, make_worker, states, work, write

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "ab" * 32
CALLS = "cd" * 32
SEEN = [("Climbing", "Ann: hello")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are minutes in production are moments here."""
    monkeypatch.setattr(backoff, "pause_delay", lambda failures: 0.05)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempts, retry_after=None: retry_after or 0.05)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)


@pytest.fixture
def apns(tmp_path: Path) -> Iterator[Apns]:
    """The local stand-in for APNs."""
    with in_thread(Apns(tmp_path)) as service:
        yield service


@pytest.fixture
def phone() -> Device:
    """Bea's iPhone, registered an hour ago, to which Ann has just written."""
    ann, bea = make_person("Ann"), make_person("Bea")
    an_hour_ago = timezone.now() - timedelta(hours=1)
    phone = make_phone(bea, platform="ios", target=TOKEN, target_updated_at=an_hour_ago)
    write(make_conversation(ann, bea), ann)
    return phone


def deliver(apns: Apns) -> None:
    key = ApnsKey.read(apns.key, KEY_ID, TEAM_ID)
    work(make_worker(ApnsProvider(key, TOPIC, apns.url, tls=apns.trust)))


def gone_since(**ago: float) -> Answer:
    moment = timezone.now() - timedelta(**ago)
    return Answer(410, "Unregistered", timestamp=int(moment.timestamp() * 1000))


def test_a_410_that_is_newer_than_the_registration_forgets_the_target(apns: Apns, phone: Device) -> None:
    apns.answers.append(gone_since(minutes=1))

    deliver(apns)

    assert Device.objects.get().target == ""
    assert states() == [("dropped", "410_Unregistered")]
    assert Delivery.objects.get().answer.startswith("HTTP 410: Unregistered since ")
    assert len(apns.requests) == 1


def test_a_410_that_is_older_than_the_registration_keeps_it_and_tries_again(apns: Apns, phone: Device) -> None:
    apns.answers.append(gone_since(hours=2))

    deliver(apns)

    assert Device.objects.get().target == TOKEN
    assert states() == [("sent", "")]
    assert apns.phones[TOKEN].shown == SEEN
    assert len(apns.requests) == 2


@pytest.mark.parametrize("is_accepted", [True, False])
def test_is_shown_once_whatever_becomes_of_the_answer(apns: Apns, phone: Device, is_accepted: bool) -> None:
    mishap = Answer(resets=True, is_accepted=is_accepted)
    apns.answers.extend([mishap, Answer(503, "ServiceUnavailable", is_accepted=is_accepted)])

    deliver(apns)

    delivery = Delivery.objects.get()
    assert apns.phones[TOKEN].shown == SEEN
    assert [request.headers["apns-id"] for request in apns.requests] == [str(delivery.push_id)] * 3
    assert {request.headers["apns-collapse-id"] for request in apns.requests} == {str(delivery.conversation_id)}
    assert states() == [("sent", "")]


@pytest.fixture
def calls(phone: Device) -> str:
    """Ann calls Bea, whose iPhone has a target for calls; nothing else is due."""
    PushCursor.objects.all().delete()
    Notification.objects.all().delete()
    Device.objects.update(voip_target=CALLS)
    now = timezone.now()
    PushCursor.objects.create(
        device=phone,
        conversation=Conversation.objects.get(),
        user_id=phone.user_id,
        provider="apns",
        subject="call:1",
        payload={"call": "1", "sender_name": "Ann"},
        not_before=now,
        expires_at=now + timedelta(seconds=30),
    )
    return CALLS


def test_a_call_rings(apns: Apns, calls: str) -> None:
    deliver(apns)

    assert [ring["sender_name"] for ring in apns.phones[calls].calls] == ["Ann"]
    assert apns.phones[TOKEN].received == []
    assert states() == [("sent", "")]


def test_a_call_is_an_alert_when_its_target_is_gone(apns: Apns, calls: str) -> None:
    apns.answers.append(gone_since(minutes=1))

    deliver(apns)

    assert Device.objects.values_list("target", "voip_target").get() == (TOKEN, "")
    assert apns.phones[TOKEN].shown == [("Ann", "Incoming call")]
    assert [request.headers["apns-push-type"] for request in apns.requests] == ["voip", "alert"]
    assert states() == [("sent", "")]


def test_a_key_that_is_refused_costs_nothing(apns: Apns, phone: Device) -> None:
    apns.answers.extend([Answer(403, "InvalidProviderToken")] * 3)

    deliver(apns)

    assert apns.phones[TOKEN].shown == SEEN
    assert Delivery.objects.get().attempts == 1
    assert Device.objects.get().target == TOKEN
