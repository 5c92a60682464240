"""The push loop through the local FCM: what a person sees after things went wrong on the way."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from django.utils import timezone

from models.device import Device
from models.notification import Delivery, PushCursor
from push import backoff, payload, sender, worker
from push.providers import fcm as fcm_module
from push.providers.fcm import FcmProvider
from push.providers.memory import MemoryProvider
from push.rate import Quota
from tests.fcm import Answer, Fcm, bad_token, refusal
from tests.push.scene import (
    make_conversation,
    make_person,
    make_phone,
    make_worker,
    nothing_is_pending,
    states,
    work,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are minutes in production are moments here."""
    monkeypatch.setattr(backoff, "pause_delay", lambda failures: 0.05)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempts, retry_after=None: retry_after or 0.05)
    monkeypatch.setattr(fcm_module, "READ_SECONDS", 0.3)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)


@pytest.fixture(params=["android", "ios"])
def phone(request: pytest.FixtureRequest) -> Device:
    """Bea's phone, to which Ann has just written."""
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = make_phone(bea, platform=request.param)
    write(make_conversation(ann, bea), ann)
    return phone


def deliver(fcm: Fcm, until: Callable[[], bool] = nothing_is_pending) -> None:
    work(make_worker(FcmProvider(fcm.credentials, fcm.url)), until=until, seconds=20)


def write_to_many(count: int, **fields: Any) -> list[Device]:
    """Ann writes to as many people; their phones."""
    ann = make_person("Ann")
    phones = []
    for _ in range(count):
        bea = make_person("Bea")
        phones.append(make_phone(bea, **fields))
        write(make_conversation(ann, bea), ann)
    return phones


def posts_to(fcm: Fcm, phone: Device) -> int:
    return sum(post.target == phone.target for post in fcm.posts)


SEEN = [("Climbing", "Ann: hello")]


# --- the answer is lost


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
    assert fcm.phones[phone.target].notifications.keys() == {str(Delivery.objects.get().conversation_id)}
    assert fcm.push_ids(phone.target) == [str(Delivery.objects.get().push_id)] * 3
    assert states() == [("sent", "")]


# --- Retry-After


def in_two_minutes() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", [lambda: "120", in_two_minutes], ids=["seconds", "date"])
def test_retry_after_is_waited_for(fcm: Fcm, phone: Device, status: int, retry_after: Callable[[], str]) -> None:
    fcm.script(phone.target, refusal(status, Retry_After=retry_after()))
    deliver(fcm, until=lambda: Delivery.objects.filter(state="pending").exists())
    (other,) = write_to_many(1)

    deliver(fcm, until=lambda: Delivery.objects.filter(state="sent").exists())

    # The other one went, and this one waited.
    assert (posts_to(fcm, other), posts_to(fcm, phone)) == (1, 1)
    (cursor,) = PushCursor.objects.filter(device=phone)
    assert 110 < (cursor.not_before - timezone.now()).total_seconds() <= 120

    PushCursor.objects.update(not_before=timezone.now())
    deliver(fcm)

    assert posts_to(fcm, phone) == 2
    assert fcm.phones[phone.target].shown == SEEN


def test_one_provider_at_429_delays_no_other_and_no_herd_comes_after_it(fcm: Fcm) -> None:
    write_to_many(60)
    others = write_to_many(20, push_provider="memory")
    fcm.always = refusal(429, "QUOTA_EXCEEDED", Retry_After="0")
    memory = MemoryProvider()
    busy = make_worker(FcmProvider(fcm.credentials, fcm.url), memory)

    def is_over() -> bool:
        """The outage ends when FCM is paused and everybody else has their push."""
        if fcm.always and busy.senders[0].courier.breaker.is_open and len(memory.sent) == len(others):
            fcm.always, fcm.delay_seconds = None, 0.005
        return not fcm.always and nothing_is_pending()

    work(busy, until=is_over, seconds=20)

    assert {push.target for push in memory.sent} == {phone.target for phone in others}
    taken = [post for post in fcm.posts if post.status == 200]
    assert len(taken) == len({post.target for post in taken}) == 60
    # One probes, and each that arrives lets one more follow.
    assert all(post.in_flight <= number + 1 for number, post in enumerate(taken))


def test_a_quota_is_kept(fcm: Fcm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(sender, "Quota", lambda per_minute: Quota(per_minute, lambda: clock[0]))
    write_to_many(8)

    class Slow(FcmProvider):
        per_minute = 5

    slow = make_worker(Slow(fcm.credentials, fcm.url))
    polls = []
    slow.on_beat(lambda: polls.append(len(fcm.posts)))
    # Several looks at what is due after the quota was used up.
    work(slow, until=lambda: polls.count(5) >= 4)
    assert len(fcm.posts) == 5

    again = make_worker(Slow(fcm.credentials, fcm.url))
    work(again)
    assert len(fcm.posts) == 8


# --- what is wrong with the push, the target, or us


def test_too_big_for_a_hundred_phones_ids_arrive_and_no_target_is_lost(
    fcm: Fcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    phones = [make_phone(bea, platform=("android", "ios")[number % 2]) for number in range(100)]
    message = write(make_conversation(ann, bea, title="Secret club"), ann, "w" * 3_000)
    # As if we had counted wrongly: the words are cut to what never fits.
    monkeypatch.setattr(fcm_module, "MAX_PAYLOAD_BYTES", 100_000)
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


def test_a_400_that_names_the_token_and_a_probe_that_confirms_it_forget_the_target(fcm: Fcm, phone: Device) -> None:
    fcm.script(phone.target, bad_token(), bad_token())

    deliver(fcm)

    assert states() == [("dropped", "400_INVALID_TOKEN")]
    assert Device.objects.get().target == ""
    assert "not a valid FCM registration token" in Delivery.objects.get().answer


def test_a_400_that_names_the_token_without_a_probe_that_confirms_it_keeps_the_target(fcm: Fcm, phone: Device) -> None:
    fcm.script(phone.target, bad_token())

    deliver(fcm)

    assert states() == [("dead", "400_INVALID_ARGUMENT")]
    assert Device.objects.get().target == phone.target
    assert [post.is_probe for post in fcm.posts] == [False, True]
    assert fcm.phones[phone.target].received == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_without_an_error_of_fcm_s_pauses_and_costs_nothing(fcm: Fcm, status: int) -> None:
    phones = write_to_many(6)
    fcm.always = Answer(status=status, body=b"<html>not for you</html>")
    deliver(fcm, until=lambda: len(fcm.posts) >= 8)
    refused = len(fcm.posts)

    fcm.always = None
    deliver(fcm)

    assert states() == [("sent", "")] * 6
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}
    assert {phone.target for phone in Device.objects.all()} == {phone.target for phone in phones}
    assert {post.status for post in fcm.posts[:refused]} == {status}
    assert len(fcm.posts) == refused + 6
    assert all(fcm.phones[phone.target].shown == SEEN for phone in phones)


def test_a_missing_apns_key_delays_no_android_phone(fcm: Fcm, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever pauses for it pauses for longer than this test lasts.
    monkeypatch.setattr(backoff, "pause_delay", lambda failures: 3_600.0)
    iphones = write_to_many(15, platform="ios")
    androids = write_to_many(5)
    for phone in iphones:
        fcm.script(phone.target, *[refusal(401, "THIRD_PARTY_AUTH_ERROR")] * 2)

    deliver(fcm)

    assert states() == [("sent", "")] * 20
    assert [posts_to(fcm, phone) for phone in androids] == [1] * 5
    assert [posts_to(fcm, phone) for phone in iphones] == [3] * 15


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


# --- OAuth


@pytest.mark.parametrize(
    "outage",
    [
        Answer(resets=True),
        Answer(hold=threading.Event()),
        Answer(status=400, body=b'{"error": "invalid_grant"}'),
        Answer(status=403, body=b"<html>forbidden</html>"),
    ],
    ids=["out-of-reach", "stalls", "invalid-grant", "forbidden"],
)
def test_an_oauth_outage_loses_nothing(fcm: Fcm, phone: Device, outage: Answer) -> None:
    fcm.oauth.answers.extend([outage] * 3)

    deliver(fcm)

    assert fcm.oauth.requests == 4
    assert len(fcm.posts) == 1
    assert fcm.phones[phone.target].shown == SEEN
    assert Delivery.objects.get().attempts == 1


def test_invalid_grant_is_said_so(fcm: Fcm, phone: Device) -> None:
    fcm.oauth.always = Answer(status=400, body=b'{"error": "invalid_grant", "error_description": "Invalid JWT"}')

    deliver(fcm, until=lambda: Delivery.objects.filter(reason="oauth_invalid_grant").exists())

    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.answer) == ("pending", "No access token: invalid_grant")
    assert Device.objects.get().target == phone.target
    assert fcm.posts == []


def test_access_tokens_that_expire_are_renewed_without_a_try(fcm: Fcm) -> None:
    # Google's clock and ours agree on nothing: this one ends within the margin in which tokens are renewed.
    fcm.oauth.expires_in = 30
    phones = write_to_many(3)

    provider = FcmProvider(fcm.credentials, fcm.url, concurrency=1)
    work(make_worker(provider))

    assert [fcm.phones[phone.target].shown for phone in phones] == [SEEN] * 3
    assert (len(fcm.posts), fcm.oauth.requests) == (3, 3)


def test_access_tokens_that_are_revoked_cost_one_request(fcm: Fcm) -> None:
    phones = write_to_many(1)

    def are_both_sent() -> bool:
        """After the first push Google forgets our token, and Ann writes to somebody else."""
        if len(phones) == 1 and states() == [("sent", "")]:
            fcm.oauth.revoke_all()
            phones.extend(write_to_many(1))
        return len(phones) == 2 and nothing_is_pending()

    deliver(fcm, until=are_both_sent)

    assert [fcm.phones[phone.target].shown for phone in phones] == [SEEN] * 2
    assert fcm.oauth.requests == 2
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


# --- the badge


def test_the_badge_is_absolute(fcm: Fcm) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    phone = make_phone(bea, platform="ios")
    for _ in range(3):
        write(make_conversation(ann, bea), ann)

    deliver(fcm)

    assert fcm.phones[phone.target].badge == 3
