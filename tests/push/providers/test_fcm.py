"""Our FCM provider against the local stand-in: the wire, every outcome, and no request more than one."""

import asyncio
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from requests import Session

from models.deliveries import Kind
from models.ids import new_id
from push.payload import Push
from push.providers import fcm as fcm_module
from push.providers.base import Outcome, Verdict, fingerprint
from push.providers.fcm import MAX_PAYLOAD_BYTES, FcmProvider, outcome_of, payload_bytes, wire_json
from tests.fcm import BAD_TOKEN, RESERVED_KEY, Answer, Fcm, bad_token, bad_token_field, refusal, wrong_with
from tests.push.pushes import NOW, make_clear, make_push, make_push_of


def wire(kind: Kind = Kind.ALERT, **changes: Any) -> dict[str, Any]:
    """The message as it stands on the wire, which FCM would take."""
    return wire_of(make_push(kind, **changes))


def wire_of(push: Push) -> dict[str, Any]:
    body = wire_json(push)
    assert wrong_with(body) is None
    message: dict[str, Any] = json.loads(body)["message"]
    return message


# --- Android

WAKES = [Kind.ALERT, Kind.SUMMARY, Kind.CALL, Kind.TEST]


@pytest.mark.parametrize("kind", WAKES)
def test_android_gets_data_only_and_of_high_priority(kind: Kind) -> None:
    push = make_push_of(kind, device_platform="android")

    message = wire_of(push)

    assert set(message) == {"token", "data", "android"}
    assert message["android"] == {"priority": "high", "ttl": "86400s"}
    assert message["data"] == push.data


def test_android_is_not_woken_for_a_revision() -> None:
    message = wire_of(make_push(Kind.REVISION, device_platform="android"))

    assert message["android"] == {"priority": "normal", "ttl": "86400s"}
    assert message["data"]["silent"] == "1"


def test_android_gets_clears_of_normal_priority_and_the_last_one_only() -> None:
    push = make_clear(platform="android")

    message = wire_of(push)

    assert message["android"] == {"priority": "normal", "ttl": "86400s", "collapse_key": "clear"}
    assert message["data"] == push.data


# --- Apple


def test_apple_gets_an_alert() -> None:
    push = make_push(device_platform="ios")

    message = wire_of(push)

    assert set(message) == {"token", "data", "apns"}
    assert message["apns"]["payload"]["aps"] == {
        "alert": {"title": "Ann", "body": "hello"},
        "badge": 3,
        "sound": "default",
        "category": "message",
        "thread-id": push.data["conversation"],
        "mutable-content": 1,
    }
    assert message["apns"]["headers"] == {
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": str(int(push.expires_at.timestamp())),
        "apns-collapse-id": push.data["conversation"],
    }
    assert message["data"]["push_id"] == str(push.push_id)
    assert not {"title", "body", "badge"} & set(message["data"])


def test_apple_shows_a_revision_without_a_sound_or_a_light() -> None:
    apns = wire(Kind.REVISION, device_platform="ios")["apns"]

    assert "sound" not in apns["payload"]["aps"]
    assert apns["payload"]["aps"]["interruption-level"] == "passive"
    assert (apns["headers"]["apns-push-type"], apns["headers"]["apns-priority"]) == ("alert", "5")


def test_apple_shows_a_call_through_a_focus() -> None:
    push = make_push_of(Kind.CALL, device_platform="ios")

    apns = wire_of(push)["apns"]

    assert apns["payload"]["aps"]["interruption-level"] == "time-sensitive"
    assert apns["payload"]["aps"]["category"] == "call"
    assert apns["headers"]["apns-priority"] == "10"
    assert apns["headers"]["apns-collapse-id"] == str(push.push_id)


def test_a_call_through_fcm_is_an_alert_whatever_targets_there_are() -> None:
    message = wire_of(make_push_of(Kind.CALL, provider="fcm", device_platform="ios", voip_target="cd" * 32))

    assert message["token"] == "target-of-bea"
    assert message["apns"]["headers"]["apns-push-type"] == "alert"


def test_apple_gets_clears_in_the_background() -> None:
    push = make_clear(platform="ios")

    message = wire_of(push)

    assert message["apns"]["payload"] == {"aps": {"content-available": 1}}
    assert message["apns"]["headers"] == {
        "apns-push-type": "background",
        "apns-priority": "5",
        "apns-expiration": str(int(push.expires_at.timestamp())),
    }
    assert message["data"]["badge"] == "2"


# --- the web


def test_the_web_gets_data_with_a_life_and_a_topic() -> None:
    push = make_push(device_platform="web")

    message = wire_of(push)

    topic = UUID(push.data["conversation"]).hex
    assert set(message) == {"token", "data", "webpush"}
    assert message["webpush"]["headers"] == {"TTL": "86400", "Urgency": "high", "Topic": topic}


def test_the_web_gets_a_revision_in_the_place_of_its_alert() -> None:
    conversation = new_id()

    alert, revision = (
        wire(kind, device_platform="web", conversation_id=conversation)["webpush"]["headers"]
        for kind in (Kind.ALERT, Kind.REVISION)
    )

    assert revision["Topic"] == alert["Topic"] == conversation.hex
    assert revision["Urgency"] == "normal"


async def test_the_web_gets_no_clears(fcm: Fcm, provider: FcmProvider) -> None:
    outcome = await provider.deliver(make_clear(platform="web"))

    assert outcome == Outcome(Verdict.REJECTED, "not_encodable")
    assert fcm.posts == []


# --- whatever the platform


@pytest.mark.parametrize(("kind", "blocks"), [(Kind.ALERT, {"android", "webpush"}), (Kind.CLEAR, {"android"})])
def test_an_unknown_platform_gets_every_way_without_an_alert(kind: Kind, blocks: set[str]) -> None:
    push = make_clear(platform="other") if kind is Kind.CLEAR else make_push(kind, device_platform="other")

    assert set(wire_of(push)) == {"token", "data"} | blocks


@pytest.mark.parametrize("platform", ["android", "web"])
def test_a_push_that_is_nearly_over_still_lives_for_a_second(platform: str) -> None:
    message = wire_of(replace(make_push(device_platform=platform), ttl_seconds=0))

    assert message["android"]["ttl"] == "1s" if platform == "android" else message["webpush"]["headers"]["TTL"] == "1"


def test_no_key_of_ours_is_one_that_fcm_keeps_for_itself() -> None:
    keys = {key for kind in Kind for key in make_push_of(kind).data}

    assert {"type", "conversation", "clear"} <= keys
    assert [key for key in keys if RESERVED_KEY.match(key)] == []


def test_an_installation_id_is_a_target_of_its_own_kind() -> None:
    message = wire(target_kind="fid", target="an-installation")

    assert message["fid"] == "an-installation"
    assert "token" not in message


def test_life_is_cut_to_what_fcm_takes() -> None:
    assert wire(expires_at=NOW + timedelta(days=90))["android"]["ttl"] == f"{28 * 86_400}s"


def test_building_a_message_warns_of_nothing_and_leaves_other_warnings_alone() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        wire()
        warnings.warn("something else", DeprecationWarning, stacklevel=1)

    assert [str(warning.message) for warning in seen] == ["something else"]


async def test_a_push_reaches_the_phone(fcm: Fcm, provider: FcmProvider) -> None:
    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.SENT)
    assert fcm.phones["target-of-bea"].shown == [("Ann", "hello")]


async def test_credentials_may_be_a_file(fcm: Fcm, tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    path.write_text(fcm.credentials)
    provider = FcmProvider(str(path), fcm.url + "/")

    outcome = await provider.deliver(make_push())
    await provider.close()

    assert outcome.verdict is Verdict.SENT


@pytest.mark.parametrize("credentials", ["{}", '{"type": "authorized_user"}', "{"])
def test_credentials_of_another_kind_are_refused(credentials: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        FcmProvider(credentials, "http://127.0.0.1")


async def test_pushes_share_an_access_token_and_connections(fcm: Fcm, provider: FcmProvider) -> None:
    outcomes = await asyncio.gather(*(provider.deliver(make_push()) for _ in range(40)))

    assert {outcome.verdict for outcome in outcomes} == {Verdict.SENT}
    assert fcm.oauth.requests == 1


async def test_requests_in_flight_are_bounded(fcm: Fcm, provider: FcmProvider) -> None:
    fcm.delay_seconds = 0.02

    await asyncio.gather(*(provider.deliver(make_push()) for _ in range(40)))

    assert 1 < fcm.most_in_flight <= provider.concurrency


TABLE = [
    (refusal(404, "UNREGISTERED"), Verdict.TARGET_GONE, "404_UNREGISTERED"),
    (refusal(403, "SENDER_ID_MISMATCH"), Verdict.TARGET_GONE, "403_SENDER_ID_MISMATCH"),
    (refusal(400, "INVALID_ARGUMENT"), Verdict.REJECTED, "400_INVALID_ARGUMENT"),
    (refusal(400), Verdict.REJECTED, "http_400"),
    (refusal(413), Verdict.TOO_BIG, "http_413"),
    (
        Answer(status=400, code="INVALID_ARGUMENT", detail="Message too big"),
        Verdict.TOO_BIG,
        "400_INVALID_ARGUMENT",
    ),
    (refusal(429, "QUOTA_EXCEEDED"), Verdict.RETRY, "429_QUOTA_EXCEEDED"),
    (refusal(429), Verdict.RETRY, "http_429"),
    (refusal(500, "INTERNAL"), Verdict.RETRY, "500_INTERNAL"),
    (refusal(502), Verdict.RETRY, "http_502"),
    (refusal(503, "UNAVAILABLE"), Verdict.RETRY, "503_UNAVAILABLE"),
    (refusal(401), Verdict.PAUSE, "http_401"),
    (refusal(403), Verdict.PAUSE, "http_403"),
    (refusal(404), Verdict.PAUSE, "http_404"),
    (Answer(status=404, body=b"<html>not here</html>"), Verdict.PAUSE, "http_404"),
    # Apple's key is missing in the Firebase project: only Apple's devices are concerned.
    (refusal(401, "THIRD_PARTY_AUTH_ERROR"), Verdict.RETRY, "401_THIRD_PARTY_AUTH_ERROR"),
    (Answer(status=302, headers={"Location": "/elsewhere"}, body=b""), Verdict.PAUSE, "http_302"),
    (Answer(status=200, body=b"not JSON"), Verdict.SENT, ""),
    (Answer(status=500, body=b'{"error": [1]}'), Verdict.RETRY, "http_500"),
]


@pytest.mark.parametrize(
    ("answer", "verdict", "code"), TABLE, ids=[f"{answer.status}-{answer.code or answer.body}" for answer, *_ in TABLE]
)
async def test_outcome_by_status_and_error_code(
    fcm: Fcm, provider: FcmProvider, answer: Answer, verdict: Verdict, code: str
) -> None:
    fcm.script("target-of-bea", answer)

    outcome = await provider.deliver(make_push())

    assert (outcome.verdict, outcome.code) == (verdict, code)
    assert len(fcm.posts) == 1, "a try is one request, whatever it is answered"


@pytest.mark.parametrize("refuses", [bad_token, bad_token_field])
async def test_a_400_that_names_the_token_is_probed_before_the_target_is_gone(
    fcm: Fcm, provider: FcmProvider, refuses: Callable[[], Answer]
) -> None:
    fcm.script("target-of-bea", refuses(), refuses())

    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.TARGET_GONE, "400_INVALID_TOKEN")
    assert [post.is_probe for post in fcm.posts] == [False, True]
    assert fcm.posts[1].message == {"token": "target-of-bea"}


@pytest.mark.parametrize(
    ("probe", "outcome"),
    [
        # The token is good, so it was our message.
        (Answer(), Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")),
        (refusal(400, "INVALID_ARGUMENT"), Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")),
        (refusal(404, "UNREGISTERED"), Outcome(Verdict.TARGET_GONE, "404_UNREGISTERED")),
        # Nothing was found out.
        (refusal(503, "UNAVAILABLE", Retry_After="7"), Outcome(Verdict.RETRY, "503_UNAVAILABLE", 7.0)),
        (Answer(resets=True), Outcome(Verdict.RETRY, "connection_failed")),
        (refusal(403), Outcome(Verdict.PAUSE, "http_403")),
    ],
    ids=["good", "another-400", "unregistered", "unavailable", "reset", "forbidden"],
)
async def test_a_probe_that_does_not_confirm_costs_no_target(
    fcm: Fcm, provider: FcmProvider, probe: Answer, outcome: Outcome
) -> None:
    fcm.script("target-of-bea", bad_token(), probe)

    assert await provider.deliver(make_push()) == outcome

    assert [post.is_probe for post in fcm.posts] == [False, True]
    assert fcm.phones["target-of-bea"].received == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=400, code="INVALID_ARGUMENT", fields={"message.data[0].value": "Invalid value"}),
        Answer(status=400, code="INVALID_ARGUMENT", detail="Message too big"),
        Answer(status=400, detail="Request contains an invalid argument."),
        Answer(status=400, body=b'{"error": {"message": ["registration token", "not a valid"], "details": [7, {}]}}'),
        Answer(status=403, detail=BAD_TOKEN),
        Answer(status=503, detail=BAD_TOKEN),
    ],
    ids=["another-field", "too-big", "no-detail", "strange", "another-status", "an-outage"],
)
async def test_what_does_not_name_the_token_is_not_probed(fcm: Fcm, provider: FcmProvider, answer: Answer) -> None:
    fcm.script("target-of-bea", answer)

    outcome = await provider.deliver(make_push())

    assert outcome.verdict is not Verdict.TARGET_GONE
    assert len(fcm.posts) == 1


async def test_what_fcm_said_is_kept_in_its_own_words(fcm: Fcm, provider: FcmProvider) -> None:
    fcm.script("target-of-bea", bad_token_field())

    outcome = await provider.deliver(make_push())

    said = "INVALID_ARGUMENT: Request contains an invalid argument. Invalid registration token"
    assert outcome.answer == said


async def test_a_page_of_a_proxy_is_told_by_its_status(fcm: Fcm, provider: FcmProvider) -> None:
    fcm.script("target-of-bea", Answer(status=502, body=b"<html>target-of-bea</html>"))

    assert (await provider.deliver(make_push())).answer == "HTTP 502, no error of FCM's"


async def test_nothing_of_ours_is_kept_of_an_answer(fcm: Fcm, provider: FcmProvider) -> None:
    detail = "Invalid value at 'message.data[0].value' (TYPE_STRING), \"meet me at nine\", for target-of-bea"
    fcm.script("target-of-bea", Answer(status=400, code="INVALID_ARGUMENT", detail=detail))

    outcome = await provider.deliver(make_push(text="meet me at nine"))

    assert outcome.answer == "INVALID_ARGUMENT: Invalid value at 'message.data[0].value' (TYPE_STRING)"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_code_that_only_looks_like_one_of_fcm_s_forgets_no_target(status: int) -> None:
    body = json.dumps({"error": {"details": [{"@type": "another", "errorCode": "UNREGISTERED"}]}}).encode()

    assert outcome_of(status, {}, body).verdict is not Verdict.TARGET_GONE


def test_a_refusal_that_could_not_be_read_is_neither_a_missing_target_nor_a_pause() -> None:
    assert outcome_of(404, {}, None).verdict is Verdict.RETRY


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_in_seconds(fcm: Fcm, provider: FcmProvider, status: int) -> None:
    fcm.script("target-of-bea", refusal(status, Retry_After="17"))

    assert (await provider.deliver(make_push())).retry_after == 17


async def test_retry_after_as_a_date(fcm: Fcm, provider: FcmProvider) -> None:
    then = datetime.now(UTC) + timedelta(seconds=90)
    fcm.script("target-of-bea", refusal(429, Retry_After=format_datetime(then, usegmt=True)))

    outcome = await provider.deliver(make_push())

    assert outcome.retry_after == pytest.approx(90, abs=5)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("soon", 60), ("", 60), ("-5", 60), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("9" * 400, 28 * 86_400)],
)
def test_strange_retry_after(value: str, seconds: float) -> None:
    # 60 seconds is the documented wait after a 429 that does not say.
    assert outcome_of(429, {"Retry-After": value}, b"").retry_after == seconds


async def test_nobody_listens(fcm: Fcm) -> None:
    provider = FcmProvider(fcm.credentials, "http://127.0.0.1:9")

    outcome = await provider.deliver(make_push())
    await provider.close()

    assert outcome == Outcome(Verdict.RETRY, "not_connected")


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_connection_reset(fcm: Fcm, provider: FcmProvider, is_accepted: bool) -> None:
    fcm.script("target-of-bea", Answer(resets=True, is_accepted=is_accepted))

    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.RETRY, "connection_failed")
    assert len(fcm.posts) == 1


async def test_an_answer_that_does_not_come(fcm: Fcm, provider: FcmProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcm_module, "READ_SECONDS", 0.2)
    fcm.script("target-of-bea", Answer(hold=threading.Event()))

    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.RETRY, "timeout")
    assert len(fcm.posts) == 1


async def test_a_stalled_target_holds_up_no_other(fcm: Fcm, provider: FcmProvider) -> None:
    release = threading.Event()
    fcm.script("stalled", Answer(hold=release))
    stalled = asyncio.create_task(provider.deliver(make_push(target="stalled")))

    outcome = await provider.deliver(make_push())

    assert outcome.verdict is Verdict.SENT
    assert not stalled.done()
    release.set()
    assert (await stalled).verdict is Verdict.SENT


async def test_an_expired_access_token_is_renewed_before_the_push(fcm: Fcm, provider: FcmProvider) -> None:
    # Within the margin in which a token is renewed.
    fcm.oauth.expires_in = 30
    await provider.deliver(make_push())

    outcome = await provider.deliver(make_push())

    assert outcome.verdict is Verdict.SENT
    assert fcm.oauth.requests == 2
    assert len(fcm.posts) == 2


async def test_a_refused_access_token_is_replaced_by_the_next_try(fcm: Fcm, provider: FcmProvider) -> None:
    await provider.deliver(make_push())
    fcm.oauth.revoke_all()

    refused = await provider.deliver(make_push())
    outcome = await provider.deliver(make_push())

    assert refused == Outcome(Verdict.PAUSE, "http_401")
    assert outcome.verdict is Verdict.SENT
    assert fcm.oauth.requests == 2


async def test_invalid_grant_pauses(fcm: Fcm, provider: FcmProvider) -> None:
    fcm.oauth.always = Answer(status=400, body=b'{"error": "invalid_grant", "error_description": "Invalid JWT"}')

    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.PAUSE, "oauth_invalid_grant")
    assert fcm.posts == []


async def test_oauth_out_of_reach_pauses(fcm: Fcm, provider: FcmProvider) -> None:
    fcm.oauth.always = Answer(resets=True)

    outcome = await provider.deliver(make_push())

    assert outcome == Outcome(Verdict.PAUSE, "oauth_TransportError")
    assert fcm.posts == []


async def test_pushes_that_wait_for_oauth_share_its_failure(fcm: Fcm, provider: FcmProvider) -> None:
    release = threading.Event()
    fcm.oauth.always = Answer(status=403, body=b"{}", hold=release)
    waiting = [asyncio.create_task(provider.deliver(make_push())) for _ in range(8)]
    while fcm.oauth.requests == 0 or sum(thread.name.startswith("fcm_") for thread in threading.enumerate()) < 8:
        await asyncio.sleep(0.01)

    release.set()
    outcomes = await asyncio.gather(*waiting)

    assert {outcome.verdict for outcome in outcomes} == {Verdict.PAUSE}
    # One more at most: a thread that had only just begun when the answer came.
    assert fcm.oauth.requests <= 2


@pytest.mark.parametrize("platform", ["android", "ios", "web"])
@pytest.mark.parametrize(("is_more", "verdict"), [(0, Verdict.SENT), (1, Verdict.TOO_BIG)])
async def test_what_fcm_would_not_take_is_not_sent(
    fcm: Fcm,
    provider: FcmProvider,
    platform: str,
    is_more: int,
    verdict: Verdict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.fcm.MAX_PAYLOAD_BYTES", 10_000)
    push = make_push(device_platform=platform)
    push = replace(push, data={**push.data, "more": ""})
    left = MAX_PAYLOAD_BYTES - payload_bytes(wire_json(push)) + is_more
    push = replace(push, data={**push.data, "more": "é" * (left // 2) + "e" * (left % 2)})

    assert (await provider.deliver(push)).verdict is verdict

    assert len(fcm.posts) == 1 - is_more


async def test_a_target_of_an_unknown_kind_is_rejected_without_a_request(fcm: Fcm, provider: FcmProvider) -> None:
    outcome = await provider.deliver(make_push(target_kind="pigeon"))

    assert outcome == Outcome(Verdict.REJECTED, "not_encodable")
    assert fcm.posts == []


async def test_no_log_line_holds_a_target(fcm: Fcm, provider: FcmProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fcm.script("target-of-bea", refusal(404, "UNREGISTERED"), Answer(resets=True))

    for _ in range(3):
        await provider.deliver(make_push())

    assert "target-of-bea" not in caplog.text


def test_a_fingerprint_is_eight_hex_digits() -> None:
    assert len(fingerprint("a")) == 8
    assert int(fingerprint("a"), 16)
    assert fingerprint("a") != fingerprint("b")


def test_the_environment_s_proxy_is_honoured(fcm: Fcm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    provider = FcmProvider(fcm.credentials, "http://push.example.com")

    assert provider._session.proxies["http"] == "http://127.0.0.1:9"


def test_requests_keeps_its_promise_not_to_repeat() -> None:
    # The adapters of a plain session do not retry; ours are mounted so that this stays said.
    assert Session().get_adapter("https://x").max_retries.total == 0


async def test_closing_lets_go_of_the_threads(fcm: Fcm) -> None:
    provider = FcmProvider(fcm.credentials, fcm.url)
    await provider.deliver(make_push())

    await provider.close()

    deadline = time.monotonic() + 5
    while any(thread.name.startswith("fcm_") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
