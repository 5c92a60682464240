"""Our provider for Apple's push service against a local one, over HTTP/2."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deliveries import Kind
from models.ids import new_id
from push.payload import Push
from push.providers import apns
from push.providers.apns import ApnsKey, ApnsProvider, outcome_of
from push.providers.base import Outcome, Verdict
from tests.apns import KEY_ID, TEAM_ID, TOPIC, Answer, Apns
from tests.push.pushes import make_clear, make_push, make_push_of

PHONE = "ab" * 32
CALLS = "cd" * 32


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Apns]:
    async with Apns(tmp_path) as service:
        yield service


@pytest.fixture
async def provider(service: Apns) -> AsyncIterator[ApnsProvider]:
    key = ApnsKey.read(service.key, KEY_ID, TEAM_ID)
    provider = ApnsProvider(key, TOPIC, service.url, tls=service.trust)
    yield provider
    await provider.close()


def push_to_phone(**changes: Any) -> Push:
    return make_push(**{"target": PHONE, "device_platform": "ios", **changes})


async def test_the_phone_shows_what_we_pushed(service: Apns, provider: ApnsProvider) -> None:
    push = push_to_phone(text="hello 👩‍👩‍👧")

    assert await provider.deliver(push) == Outcome(Verdict.SENT)

    assert service.phones[PHONE].shown == [("Ann", "hello 👩‍👩‍👧")]
    assert service.phones[PHONE].badge == 3
    (request,) = service.requests
    assert request.headers["apns-id"] == str(push.push_id)
    assert request.headers["apns-expiration"] == str(int(push.expires_at.timestamp()))
    assert request.payload["aps"]["mutable-content"] == 1
    assert request.payload["aps"]["thread-id"] == push.thread
    assert request.headers["apns-collapse-id"] == push.thread == push.data["conversation"]
    assert request.payload["conversation"] == push.data["conversation"]
    assert not {"title", "body", "badge"} & set(request.payload)


async def test_a_repeated_push_is_shown_once(service: Apns, provider: ApnsProvider) -> None:
    push = push_to_phone()
    service.answers.append(Answer(resets=True, is_accepted=True))

    first, second = await provider.deliver(push), await provider.deliver(push)

    assert (first, second) == (Outcome(Verdict.RETRY, "connection_failed"), Outcome(Verdict.SENT))
    assert len(service.requests) == 2
    assert len({request.headers["apns-id"] for request in service.requests}) == 1
    assert service.phones[PHONE].shown == [("Ann", "hello")]


async def test_the_next_push_of_a_conversation_takes_the_place_of_the_last(
    service: Apns, provider: ApnsProvider
) -> None:
    conversation = new_id()
    for text in ("hello", "are you there?"):
        await provider.deliver(push_to_phone(conversation_id=conversation, text=text))

    assert service.phones[PHONE].shown == [("Ann", "are you there?")]
    assert service.phones[PHONE].sounds == 2


async def test_a_revision_is_shown_without_a_sound(service: Apns, provider: ApnsProvider) -> None:
    conversation = new_id()
    await provider.deliver(push_to_phone(conversation_id=conversation, text="helo"))

    revision = make_push(Kind.REVISION, target=PHONE, device_platform="ios", conversation_id=conversation, text="hello")
    assert await provider.deliver(revision) == Outcome(Verdict.SENT)

    assert service.phones[PHONE].shown == [("Ann", "hello")]
    assert service.phones[PHONE].sounds == 1
    assert service.requests[1].headers["apns-priority"] == "5"
    assert service.requests[1].payload["aps"]["interruption-level"] == "passive"


async def test_a_clear_is_a_background_push_that_takes_the_notification_away(
    service: Apns, provider: ApnsProvider
) -> None:
    alert = push_to_phone()
    clear = make_clear(target=PHONE, platform="ios")
    clear = replace(clear, data={**clear.data, "clear": json.dumps([alert.data["conversation"]])})

    assert await provider.deliver(alert) == await provider.deliver(clear) == Outcome(Verdict.SENT)

    assert service.phones[PHONE].shown == []
    assert service.phones[PHONE].badge == 2
    request = service.requests[1]
    assert request.payload["aps"] == {"content-available": 1}
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("background", "5")
    assert request.headers["apns-expiration"] == str(int(clear.expires_at.timestamp()))


async def test_a_call_rings_where_the_phone_has_a_target_for_calls(service: Apns, provider: ApnsProvider) -> None:
    call = make_push_of(Kind.CALL, provider="apns", device_platform="ios", target=PHONE, voip_target=CALLS)
    service.answers.append(Answer(resets=True, is_accepted=True))

    outcomes = [await provider.deliver(call) for _ in range(2)]

    assert [outcome.verdict for outcome in outcomes] == [Verdict.RETRY, Verdict.SENT]
    assert [ring["call"] for ring in service.phones[CALLS].calls] == ["1"]
    assert service.phones[PHONE].received == []
    request = service.requests[1]
    assert request.headers["apns-topic"] == f"{TOPIC}.voip"
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("voip", "10")
    assert request.headers["apns-expiration"] == str(int(call.expires_at.timestamp()))
    assert request.payload == {**call.data, "aps": {}}


@pytest.mark.parametrize(
    ("kind", "provider_name", "voip_target"),
    [(Kind.CALL, "apns", ""), (Kind.CALL, "fcm", "cd" * 32), (Kind.ALERT, "apns", "cd" * 32)],
)
def test_nothing_else_goes_to_the_target_for_calls(kind: Kind, provider_name: str, voip_target: str) -> None:
    push = make_push_of(kind, provider=provider_name, device_platform="ios", target=PHONE, voip_target=voip_target)

    assert (push.target_kind, push.target) == ("token", PHONE)
    assert json.loads(apns.wire_json(push))["aps"]["alert"] == {"title": push.title, "body": push.body}


async def test_what_apple_said_is_kept(service: Apns, provider: ApnsProvider) -> None:
    service.answers.append(Answer(410, "Unregistered", timestamp=int(GONE_AT.timestamp() * 1000)))

    outcome = await provider.deliver(push_to_phone())

    assert outcome.answer == "HTTP 410: Unregistered since 2026-03-01 12:00:00 UTC"


async def test_many_at_once_share_a_connection_and_a_token(service: Apns, provider: ApnsProvider) -> None:
    service.delay_seconds = 0.05

    outcomes = await asyncio.gather(*(provider.deliver(push_to_phone()) for _ in range(50)))

    assert outcomes == [Outcome(Verdict.SENT)] * 50
    assert service.connections <= apns.CONNECTIONS
    assert service.most_at_once > 10
    assert len({request.headers["authorization"] for request in service.requests}) == 1


async def test_the_token_is_signed_anew_after_fifty_minutes_and_not_before(
    service: Apns, provider: ApnsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for minutes in (-50, -20, -1, 0):
        monkeypatch.setattr(apns.time, "time", lambda minutes=minutes: now + minutes * 60)
        assert await provider.deliver(push_to_phone()) == Outcome(Verdict.SENT)

    tokens = [request.headers["authorization"].removeprefix("bearer ") for request in service.requests]
    made = [jwt.decode(token, options={"verify_signature": False})["iat"] for token in tokens]
    assert made == [int(now - 3000)] * 3 + [int(now)]


async def test_a_token_that_has_expired_by_apple_s_clock_is_signed_anew(
    service: Apns, provider: ApnsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    service.clock_ahead_seconds = 30 * 60
    with monkeypatch.context() as earlier:
        earlier.setattr(apns.time, "time", lambda: now - 40 * 60)
        service.clock_ahead_seconds += 40 * 60
        assert await provider.deliver(push_to_phone()) == Outcome(Verdict.PAUSE, "403_ExpiredProviderToken")
        service.clock_ahead_seconds -= 40 * 60

    assert await provider.deliver(push_to_phone()) == Outcome(Verdict.SENT)


async def test_a_silent_service_is_a_timeout(service: Apns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apns, "ANSWER_SECONDS", 0.1)
    service.delay_seconds = 30
    impatient = ApnsProvider(ApnsKey.read(service.key, KEY_ID, TEAM_ID), TOPIC, service.url, tls=service.trust)

    assert await impatient.deliver(push_to_phone()) == Outcome(Verdict.RETRY, "timeout")
    await impatient.close()


async def test_a_service_that_is_not_there_is_tried_again(service: Apns) -> None:
    key = ApnsKey.read(service.key, KEY_ID, TEAM_ID)
    lost = ApnsProvider(key, TOPIC, "https://127.0.0.1:1", tls=service.trust)

    assert await lost.deliver(push_to_phone()) == Outcome(Verdict.RETRY, "not_connected")
    await lost.close()


async def test_another_team_s_key_pauses(service: Apns) -> None:
    wrong = ApnsProvider(ApnsKey.read(service.key, KEY_ID, "TEAM999999"), TOPIC, service.url, tls=service.trust)

    assert await wrong.deliver(push_to_phone()) == Outcome(Verdict.PAUSE, "403_InvalidProviderToken")
    await wrong.close()


@pytest.mark.parametrize("target", ["", "../x", "ab" * 200, "zz" * 32, PHONE + "?"])
async def test_what_is_no_token_becomes_no_address(service: Apns, provider: ApnsProvider, target: str) -> None:
    assert await provider.deliver(replace(push_to_phone(), target=target)) == Outcome(Verdict.REJECTED, "bad_target")
    assert service.requests == []


GONE_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (
            Answer(410, "Unregistered", timestamp=int(GONE_AT.timestamp() * 1000)),
            Outcome(Verdict.TARGET_GONE, "410_Unregistered", gone_at=GONE_AT),
        ),
        (Answer(410, "ExpiredToken"), Outcome(Verdict.TARGET_GONE, "410_ExpiredToken")),
        (Answer(429, "TooManyRequests"), Outcome(Verdict.RETRY, "429_TooManyRequests", is_about_target=True)),
        (
            Answer(503, "ServiceUnavailable", headers={"retry-after": "7"}),
            Outcome(Verdict.RETRY, "503_ServiceUnavailable", 7.0),
        ),
        (Answer(500, "InternalServerError"), Outcome(Verdict.RETRY, "500_InternalServerError")),
        (Answer(403, "InvalidProviderToken"), Outcome(Verdict.PAUSE, "403_InvalidProviderToken")),
        (Answer(400, "TopicDisallowed"), Outcome(Verdict.PAUSE, "400_TopicDisallowed")),
        (Answer(400, "BadDeviceToken"), Outcome(Verdict.REJECTED, "400_BadDeviceToken")),
        (Answer(400, "not a word, and much too long for one " * 3), Outcome(Verdict.REJECTED, "http_400")),
        (Answer(413, "PayloadTooLarge"), Outcome(Verdict.TOO_BIG, "413_PayloadTooLarge")),
    ],
    ids=lambda value: value.code if isinstance(value, Outcome) else "",
)
async def test_what_an_answer_means(service: Apns, provider: ApnsProvider, answer: Answer, outcome: Outcome) -> None:
    service.answers.append(answer)

    assert await provider.deliver(push_to_phone()) == outcome


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"reason": 7, "timestamp": "x"}', b'{"timestamp": 1e99}'])
def test_an_answer_that_is_none_is_judged_by_its_status(body: bytes) -> None:
    assert outcome_of(410, {}, body) == Outcome(Verdict.TARGET_GONE, "http_410")


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6_000))
def test_every_push_fits(text: str) -> None:
    push = make_push(conversation_kind="group", conversation_title=text[:200], text=text, device_platform="ios")
    assert len(apns.wire_json(push)) <= apns.MAX_PAYLOAD_BYTES


def test_a_key_is_read_from_a_file_too(tmp_path: Path) -> None:
    text = Apns(tmp_path).key
    (tmp_path / "key.p8").write_text(text)

    keys = [ApnsKey.read(given, "a", "b").private_key for given in (str(tmp_path / "key.p8"), text)]

    assert keys[0].private_numbers() == keys[1].private_numbers()


@pytest.mark.parametrize(("key_id", "team_id"), [("", TEAM_ID), (KEY_ID, "")])
def test_a_key_without_its_ids_is_refused(tmp_path: Path, key_id: str, team_id: str) -> None:
    with pytest.raises(ValueError, match="ids"):
        ApnsKey.read(Apns(tmp_path).key, key_id, team_id)


def test_data_is_told_once() -> None:
    payload = json.loads(apns.wire_json(push_to_phone()))

    assert payload["aps"]["alert"] == {"title": "Ann", "body": "hello"}
    assert payload["type"] == "message.sent"
    assert not {"title", "body", "badge"} & set(payload)


@pytest.mark.parametrize("kind", [Kind.ALERT, Kind.SUMMARY, Kind.CALL, Kind.TEST])
async def test_apple_takes_every_kind(service: Apns, provider: ApnsProvider, kind: Kind) -> None:
    push = replace(make_push_of(kind, device_platform="ios"), target=PHONE)

    assert await provider.deliver(push) == Outcome(Verdict.SENT)

    assert service.requests[0].headers["apns-collapse-id"] == push.collapse
    assert service.requests[0].headers["apns-priority"] == "10"
