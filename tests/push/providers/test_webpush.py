"""Our Web Push provider against a local push service that decrypts and verifies; and where it never goes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management import call_command

from models.deliveries import Kind
from models.ids import new_id
from models.subscriptions import BadSubscription, read_subscription
from push import backoff
from push.breaker import FAILURES_TO_OPEN, Breaker
from push.payload import Push
from push.providers import webpush
from push.providers.base import Outcome, Verdict
from push.providers.webpush import CheckedResolver, NotPublic, Tokens, WebPushProvider, is_public, outcome_of
from tests.push.pushes import make_clear, make_push, make_push_of
from tests.webpush import Browser, PushService, base64url

SUBJECT = "mailto:push@example.com"
KEY = base64url(bytes(31) + b"\x07")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[PushService]:
    async with PushService(tmp_path) as service:
        yield service


@pytest.fixture
async def provider(service: PushService) -> AsyncIterator[WebPushProvider]:
    """A provider that may ask this machine, and believes the service's certificate."""
    provider = WebPushProvider(KEY, SUBJECT, allows=lambda address: True, tls=service.trust)
    yield provider
    await provider.close()


def again(code: str, seconds: float | None = None) -> Outcome:
    """To be tried again; it says nothing about the other services."""
    return Outcome(Verdict.RETRY, code, seconds, is_about_target=True)


def push_to(browser: Browser, **changes: Any) -> Push:
    return make_push(target=browser.subscription, device_platform="web", **changes)


async def test_the_browser_reads_what_we_pushed(service: PushService, provider: WebPushProvider) -> None:
    browser = service.subscribe()
    push = push_to(browser, text="жук 👩‍👩‍👧")

    assert await provider.deliver(push) == Outcome(Verdict.SENT)

    (received,) = service.received
    assert browser.read(received.body) == push.data
    assert b"Ann" not in received.body
    assert received.headers["Content-Encoding"] == "aes128gcm"
    topic = UUID(push.data["conversation"]).hex
    assert (received.headers["Urgency"], received.headers["Topic"]) == ("high", topic)
    assert browser.phone.shown == [("Ann", "жук 👩‍👩‍👧")]
    claims = received.claims(service.origin)
    assert claims["sub"] == SUBJECT
    assert 0 < claims["exp"] - time.time() <= 24 * 3600


async def test_a_revision_takes_the_place_of_what_still_waits(service: PushService, provider: WebPushProvider) -> None:
    browser, conversation = service.subscribe(), new_id()
    browser.phone.offline()
    await provider.deliver(push_to(browser, conversation_id=conversation, text="helo"))

    revision = make_push(
        Kind.REVISION,
        target=browser.subscription,
        device_platform="web",
        conversation_id=conversation,
        text="hello",
    )
    assert await provider.deliver(revision) == Outcome(Verdict.SENT)
    browser.phone.online()

    assert browser.phone.shown == [("Ann", "hello")]
    assert browser.phone.replaced == 1
    assert service.received[1].headers["Urgency"] == "normal"


@pytest.mark.parametrize("kind", [Kind.ALERT, Kind.SUMMARY, Kind.CALL, Kind.TEST])
async def test_services_take_every_kind(service: PushService, provider: WebPushProvider, kind: Kind) -> None:
    browser = service.subscribe()
    push = replace(make_push_of(kind, device_platform="web"), target=browser.subscription)

    assert await provider.deliver(push) == Outcome(Verdict.SENT)

    assert browser.phone.shown == [(push.title, push.body)]
    assert service.received[0].headers["Urgency"] == "high"


async def test_a_browser_gets_no_clears(service: PushService, provider: WebPushProvider) -> None:
    clear = make_clear(target=service.subscribe().subscription, platform="web")

    assert await provider.deliver(clear) == Outcome(Verdict.REJECTED, "no_clears_on_the_web")

    assert service.received == []


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"code": 401, "error": "Unauthorized", "message": "bad key"}', "HTTP 401: Unauthorized; bad key"),
        ("the key does not correspond to the sender", "HTTP 401: the key does not correspond to the sender"),
        ("<html><b>no</b></html>", "HTTP 401"),
        ("", "HTTP 401"),
        ("x " * 4_000, "HTTP 401: " + ("x " * 250)[:490].strip()),
    ],
)
async def test_what_a_service_said_is_kept(
    service: PushService, provider: WebPushProvider, body: str, answer: str
) -> None:
    service.answers.append((401, {}, body))

    assert (await provider.deliver(push_to(service.subscribe()))).answer == answer


async def test_nothing_of_ours_is_kept_of_an_answer(service: PushService, provider: WebPushProvider) -> None:
    browser = service.subscribe()
    service.answers.append((400, {}, f'no {browser.endpoint} with {browser.subscription}, no "meet me at nine"'))

    outcome = await provider.deliver(push_to(browser, text="meet me at nine"))

    assert outcome.answer == "HTTP 400: no … with …, no …"


async def test_a_push_that_is_nearly_over_still_lives_for_a_second(
    service: PushService, provider: WebPushProvider
) -> None:
    await provider.deliver(replace(push_to(service.subscribe()), ttl_seconds=0))
    assert service.received[0].headers["TTL"] == "1"


async def test_each_service_is_told_its_own_audience(
    service: PushService, provider: WebPushProvider, tmp_path: Path
) -> None:
    here, there = service.subscribe(), service.subscribe()
    there.endpoint = there.endpoint.replace(service.origin, service.address)

    for browser in (here, there, here):
        await provider.deliver(push_to(browser))

    audiences = [service.origin, service.address, service.origin]
    tokens = [received.headers["Authorization"] for received in service.received]
    for received, audience in zip(service.received, audiences, strict=True):
        received.claims(audience)
    # Signed once for each.
    assert tokens[0] == tokens[2] != tokens[1]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome(Verdict.SENT)),
        (204, Outcome(Verdict.SENT)),
        (404, Outcome(Verdict.TARGET_GONE, "http_404")),
        (410, Outcome(Verdict.TARGET_GONE, "http_410")),
        (400, Outcome(Verdict.REJECTED, "http_400")),
        (413, Outcome(Verdict.TOO_BIG, "http_413")),
        (401, again("http_401")),
        (403, again("http_403")),
        (429, again("http_429", webpush.QUOTA_SECONDS)),
        (500, again("http_500")),
        (503, again("http_503")),
    ],
)
async def test_what_a_status_leads_to(
    service: PushService, provider: WebPushProvider, status: int, outcome: Outcome
) -> None:
    service.answers.append((status, {}))
    assert await provider.deliver(push_to(service.subscribe())) == outcome
    assert len(service.received) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heard_in_seconds_and_as_a_date(status: int) -> None:
    assert outcome_of(status, {"Retry-After": "120"}).retry_after == 120
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert outcome_of(status, {"Retry-After": date}).retry_after == pytest.approx(90, abs=2)


async def test_a_redirect_is_not_followed(service: PushService, provider: WebPushProvider) -> None:
    service.answers.append((307, {"Location": f"{service.origin}/push/elsewhere"}))
    assert await provider.deliver(push_to(service.subscribe())) == Outcome(Verdict.REJECTED, "http_307")
    assert len(service.received) == 1


async def test_a_certificate_that_nobody_vouches_for_is_not_believed(service: PushService) -> None:
    provider = WebPushProvider(KEY, SUBJECT, allows=lambda address: True)
    assert (await provider.deliver(push_to(service.subscribe()))).verdict is Verdict.RETRY
    assert service.received == []
    await provider.close()


async def test_what_does_not_answer_is_tried_again(
    service: PushService, provider: WebPushProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        browser = Browser(f"https://127.0.0.1:{nobody.getsockname()[1]}/push/a")
        assert await provider.deliver(push_to(browser)) == again("not_connected")

    monkeypatch.setattr(webpush, "ANSWER_SECONDS", 0.2)
    patient = WebPushProvider(KEY, SUBJECT, allows=lambda address: True, tls=service.trust)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        browser = Browser(f"https://127.0.0.1:{silent.getsockname()[1]}/push/a")
        assert await patient.deliver(push_to(browser)) == again("timeout")
    await patient.close()


async def test_a_service_that_is_away_is_left_alone_and_the_others_are_not(
    service: PushService, provider: WebPushProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(webpush, "Breaker", lambda concurrency: Breaker(concurrency, lambda: clock[0]))
    here, there = service.subscribe(), service.subscribe()
    there.endpoint = there.endpoint.replace(service.origin, service.address)
    service.answers.extend([(503, {})] * FAILURES_TO_OPEN)

    outcomes = [await provider.deliver(push_to(here)) for _ in range(FAILURES_TO_OPEN + 3)]

    assert outcomes == [again("http_503")] * FAILURES_TO_OPEN + [again("service_paused")] * 3
    assert await provider.deliver(push_to(there)) == Outcome(Verdict.SENT)

    clock[0] = backoff.LAST_PAUSE_SECONDS
    assert await provider.deliver(push_to(here)) == Outcome(Verdict.SENT)


async def test_a_subscription_that_is_sent_too_much_pauses_no_service(
    service: PushService, provider: WebPushProvider
) -> None:
    service.answers.extend([(429, {})] * (FAILURES_TO_OPEN + 1))

    outcomes = {(await provider.deliver(push_to(service.subscribe()))).code for _ in range(FAILURES_TO_OPEN + 1)}

    assert outcomes == {"http_429"}
    assert await provider.deliver(push_to(service.subscribe())) == Outcome(Verdict.SENT)


async def test_a_service_that_stalls_takes_no_slot_once_that_is_known(
    service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webpush, "ANSWER_SECONDS", 0.2)
    provider = WebPushProvider(KEY, SUBJECT, allows=lambda address: True, tls=service.trust)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        browser = Browser(f"https://127.0.0.1:{silent.getsockname()[1]}/push/a")
        await asyncio.gather(*(provider.deliver(push_to(browser)) for _ in range(FAILURES_TO_OPEN)))

        assert await provider.deliver(push_to(browser)) == again("service_paused")

    await provider.close()


# --- where it never goes

NOT_PUBLIC = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a00:1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    provider = WebPushProvider(KEY, SUBJECT)
    assert not is_public(address)
    outcome = await provider.deliver(push_to(Browser(f"https://{host}/push/a")))
    assert outcome == Outcome(Verdict.REJECTED, "address_not_public")
    await provider.close()


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:1.1.1.1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


async def test_a_name_that_leads_to_this_machine_is_refused(service: PushService) -> None:
    provider = WebPushProvider(KEY, SUBJECT, tls=service.trust)
    outcome = await provider.deliver(push_to(service.subscribe()))
    assert outcome == Outcome(Verdict.REJECTED, "address_not_public")
    assert service.received == []
    await provider.close()


class Rebinding(AbstractResolver):
    """Leads into the public network at first, and then to this machine."""

    answers = (["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8", "127.0.0.1"])

    def __init__(self) -> None:
        self.left = list(self.answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in self.left.pop(0)
        ]

    async def close(self) -> None: ...


async def test_a_name_is_judged_each_time_by_the_address_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webpush, "ThreadedResolver", Rebinding)
    resolver = CheckedResolver(is_public)

    assert [result["host"] for result in await resolver.resolve("push.example.com", 443)] == ["8.8.8.8"]
    for _ in range(2):
        with pytest.raises(NotPublic):
            await resolver.resolve("push.example.com", 443)


@pytest.mark.parametrize(
    "addresses",
    [[address] for address in NOT_PUBLIC] + [["8.8.8.8", "127.0.0.1"], ["2606:4700:4700::1111", "fe80::1"]],
    ids=" and ".join,
)
async def test_a_name_is_refused_that_leads_anywhere_but_into_the_public_network(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeadsThere(Rebinding):
        answers = (addresses,)

    monkeypatch.setattr(webpush, "ThreadedResolver", LeadsThere)
    provider = WebPushProvider(KEY, SUBJECT)

    outcome = await provider.deliver(push_to(Browser("https://push.example.com/a")))
    await provider.close()

    assert outcome == Outcome(Verdict.REJECTED, "address_not_public")


async def test_a_name_that_leads_elsewhere_by_now_is_refused(
    service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeadsElsewhere(Rebinding):
        answers = (["127.0.0.1"], ["127.0.0.2"])

    monkeypatch.setattr(webpush, "ThreadedResolver", LeadsElsewhere)
    monkeypatch.setattr(webpush, "DNS_SECONDS", 0)
    # As if this one address were public.
    provider = WebPushProvider(KEY, SUBJECT, allows=lambda address: address == "127.0.0.1", tls=service.trust)
    browser = service.subscribe()
    # The connection to the checked address may be used for as long as it is open.
    service.answers.append((201, {"Connection": "close"}))
    assert await provider.deliver(push_to(browser)) == Outcome(Verdict.SENT)

    assert await provider.deliver(push_to(browser)) == Outcome(Verdict.REJECTED, "address_not_public")

    await provider.close()
    assert len(service.received) == 1


# --- what it does not take

GOOD = Browser("https://push.example.com/a").subscription


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a-token",
        "[]",
        '{"endpoint":"https://push.example.com/a"}',
        GOOD.replace("https:", "http:"),
        GOOD.replace("https://", "https://user:pass@"),
        GOOD.replace("push.example.com", "push.example.com:99999"),
        GOOD.replace("push.example.com", "пуш.example.com"),
        GOOD.replace('"auth": "', '"auth": "AAAA'),
        GOOD.replace('"p256dh": "B', '"p256dh": "C'),
        GOOD.replace('"auth"', '"other"'),
    ],
)
def test_what_is_no_subscription_is_refused(text: str) -> None:
    with pytest.raises(BadSubscription):
        read_subscription(text)


async def test_a_point_that_is_not_on_the_curve_is_dead(provider: WebPushProvider) -> None:
    browser = Browser("https://127.0.0.1/push/a")
    zero = base64url(b"\x04" + bytes(64))
    start = browser.subscription.index('"p256dh": "') + len('"p256dh": "')
    target = browser.subscription[:start] + zero + browser.subscription[browser.subscription.index('", "auth"') :]
    outcome = await provider.deliver(make_push(target=target, device_platform="web"))
    assert outcome == Outcome(Verdict.REJECTED, "bad_subscription")


async def test_what_no_service_takes_is_not_sent(service: PushService, provider: WebPushProvider) -> None:
    push = push_to(service.subscribe())
    long = replace(push, data={**push.data, "more": "x" * webpush.MAX_PLAIN_BYTES})
    assert await provider.deliver(long) == Outcome(Verdict.TOO_BIG, "too_big")
    assert service.received == []


def test_keys_are_pem_or_base64url() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    assert Tokens(KEY, SUBJECT).public_key == Tokens(pem, SUBJECT).public_key


@pytest.mark.parametrize(
    ("key", "subject"), [("", SUBJECT), ("nonsense!", SUBJECT), (KEY, ""), (KEY, "push@example.com")]
)
def test_a_bad_key_or_subject_is_told_at_start(key: str, subject: str) -> None:
    with pytest.raises(ValueError, match="VAPID"):
        WebPushProvider(key, subject)


def test_a_key_is_made_by_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("vapid")
    private, public = (
        line.rpartition("=" if "ROOST" in line else " ")[2] for line in capsys.readouterr().out.split("\n")[:2]
    )
    assert Tokens(private, SUBJECT).public_key == public
