"""The push loop through the local FCM: what a person sees after things went wrong on the way."""

import threading

import pytest
from django.utils import timezone

from models.device import Device
from models.notification import Delivery
from push import payload, sender, worker
from push.providers import fcm as fcm_module
from push.providers.fcm import FcmProvider
from tests.fcm import Answer, Fcm, refusal
from tests.push.scene import make_conversation, make_person, make_phone, make_worker, states, work, write

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are minutes in production are moments here."""
    monkeypatch.setattr(sender.backoff, "pause_delay", lambda failures: 0.05)
    monkeypatch.setattr(sender.backoff, "retry_delay", lambda attempts, retry_after=None: retry_after or 0.05)
    monkeypatch.setattr(fcm_module, "READ_SECONDS", 0.3)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)


@pytest.fixture(params=["android", "ios"])
def phone(request: pytest.FixtureRequest) -> Device:
    """Bea's phone, to which Ann has just written."""
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = make_phone(bea, platform=request.param)
    write(make_conversation(ann, bea), ann)
    return phone


def deliver(fcm: Fcm) -> None:
    work(make_worker(FcmProvider(fcm.credentials, fcm.url)), seconds=20)


SEEN = [("Climbing", "Ann: hello")]


@pytest.mark.parametrize(
    "mishap",
    [
        Answer(resets=True, is_accepted=True),
        Answer(hold=threading.Event(), is_accepted=True),
        Answer(status=503, is_accepted=True),
        Answer(resets=True, is_accepted=False),
        Answer(hold=threading.Event(), is_accepted=False),
    ],
    ids=["accepted-reset", "accepted-stall", "accepted-503", "reset", "stall"],
)
def test_is_shown_once_whatever_becomes_of_the_answer(fcm: Fcm, phone: Device, mishap: Answer) -> None:
    fcm.script(phone.target, mishap, mishap)

    deliver(fcm)

    assert fcm.phones[phone.target].shown == SEEN
    assert fcm.push_ids(phone.target) == [str(Delivery.objects.get().id)] * 3
    assert states() == [("sent", "")]


@pytest.mark.parametrize(
    "outage",
    [
        Answer(resets=True),
        Answer(status=400, body=b'{"error": "invalid_grant"}'),
        Answer(status=403, body=b"<html>forbidden</html>"),
    ],
    ids=["out-of-reach", "invalid-grant", "forbidden"],
)
def test_an_oauth_outage_loses_nothing(fcm: Fcm, phone: Device, outage: Answer) -> None:
    fcm.oauth.answers.extend([outage] * 3)

    deliver(fcm)

    assert fcm.oauth.requests == 4
    assert len(fcm.posts) == 1
    assert fcm.phones[phone.target].shown == SEEN
    assert Delivery.objects.get().attempts == 1


def test_access_tokens_that_are_revoked_cost_one_try(fcm: Fcm, phone: Device) -> None:
    provider = FcmProvider(fcm.credentials, fcm.url)
    work(make_worker(provider))
    fcm.oauth.revoke_all()
    Delivery.objects.update(state="pending", finished_at=None, not_before=timezone.now())

    deliver(fcm)

    assert states() == [("sent", "")]


def test_unregistered_after_a_new_registration_reaches_the_new_target(fcm: Fcm, phone: Device) -> None:
    class Reregisters(threading.Event):
        """While the answer is held back the app registers its new token."""

        def wait(self, timeout: float | None = None) -> bool:
            Device.objects.filter(id=phone.id).update(target="fresh")
            return True

    answer = refusal(404, "UNREGISTERED")
    answer.hold = Reregisters()
    fcm.script(phone.target, answer)

    deliver(fcm)

    assert Device.objects.get(id=phone.id).target == "fresh"
    assert fcm.phones["fresh"].shown == SEEN
    assert fcm.phones[phone.target].shown == []


def test_the_badge_is_absolute(fcm: Fcm) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = make_phone(bea, platform="ios")
    for _ in range(3):
        write(make_conversation(ann, bea), ann)

    deliver(fcm)

    assert fcm.phones[phone.target].badge == 3


def test_too_big_for_a_hundred_phones_ids_arrive_and_no_target_is_lost(
    fcm: Fcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    phones = [make_phone(bea, platform=("android", "ios")[number % 2]) for number in range(100)]
    message = write(make_conversation(ann, bea, title="Secret club"), ann, "w" * 3_000)
    # As if we had counted wrongly: the words are cut to what never fits.
    monkeypatch.setattr(payload, "MAX_BODY_BYTES", 8_000)
    monkeypatch.setattr(payload, "cut", lambda text, max_bytes: text * 2)

    deliver(fcm)

    assert states() == [("sent", "")] * 100
    assert Device.objects.filter(target="").count() == 0
    for phone in phones:
        received = fcm.phones[phone.target].received
        assert [push["data"]["message"] for push in received] == [str(message.id)]
        assert "www" not in str(received)
        assert fcm.phones[phone.target].shown == [("New message", "")]
