"""
Behind a proxy, with the providers' own addresses: what leads there, and that firebase-admin itself sends what we send.

The proxy leads to local services; their certificate is believed for one test.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import firebase_admin
import pytest
from firebase_admin import credentials, messaging

from models.deliveries import Kind
from push.payload import Push
from push.providers.apns import ApnsKey, ApnsProvider
from push.providers.base import Outcome, Verdict
from push.providers.fcm import FcmProvider, wire_json
from push.providers.webpush import WebPushProvider
from server.env import Env
from tests.apns import KEY_ID, TEAM_ID, TOPIC, Apns
from tests.certificates import make_certificate
from tests.fcm import Fcm
from tests.proxy import ConnectProxy
from tests.push.pushes import make_clear, make_push
from tests.webpush import PushService

GOOGLE = Env.model_fields["fcm_base_url"].default
FCM_HOST = GOOGLE.removeprefix("https://")
# Where google-auth asks in which regions Google may be asked; it goes on without an answer.
REGIONS_HOST = "iamcredentials.googleapis.com"
PHONE = "ab" * 32


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fcm]:
    """The local FCM, with a certificate for Google's addresses."""
    certificate = make_certificate(tmp_path, FCM_HOST, REGIONS_HOST)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with Fcm(certificate) as fcm:
        yield fcm


@pytest.fixture
def proxy(google: Fcm, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """What the environment names as the way out; the OAuth endpoint is on this machine."""
    with ConnectProxy(google.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield proxy


@pytest.fixture
def app(google: Fcm, proxy: ConnectProxy) -> Iterator[firebase_admin.App]:
    """firebase-admin as anybody uses it."""
    app = firebase_admin.initialize_app(credentials.Certificate(json.loads(google.credentials)), name="unmodified")
    yield app
    firebase_admin.delete_app(app)
    # The question for regions is asked in a thread of its own, which must not outlive the proxy.
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("google.auth"):
            thread.join(10)
            assert not thread.is_alive()


def by_hand(push: Push) -> messaging.Message:
    """The same push in firebase-admin's words, as its documentation teaches them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Message\.token is deprecated", DeprecationWarning)
        return messaging.Message(**{push.target_kind: push.target}, **_of_platform(push))


def _of_platform(push: Push) -> dict[str, Any]:
    is_clear, is_revision = push.kind is Kind.CLEAR, push.kind is Kind.REVISION
    if push.platform == "android":
        priority = "normal" if is_clear or is_revision else "high"
        key = "clear" if is_clear else None
        return {
            "data": push.data,
            "android": messaging.AndroidConfig(priority=priority, ttl=86_400, collapse_key=key),
        }
    if push.platform == "web":
        headers = {"TTL": "86400", "Urgency": "normal" if is_revision else "high"}
        headers["Topic"] = push.collapse.replace("-", "")
        return {"data": push.data, "webpush": messaging.WebpushConfig(headers=headers)}
    headers = {"apns-expiration": str(int(push.expires_at.timestamp()))}
    if is_clear:
        headers |= {"apns-push-type": "background", "apns-priority": "5"}
        payload = messaging.APNSPayload(aps=messaging.Aps(content_available=True))
        return {"data": push.data, "apns": messaging.APNSConfig(headers=headers, payload=payload)}
    headers |= {"apns-push-type": "alert", "apns-priority": "5" if is_revision else "10"}
    headers["apns-collapse-id"] = push.collapse
    aps = messaging.Aps(
        alert=messaging.ApsAlert(title=push.title, body=push.body),
        badge=push.badge,
        sound=push.sound,
        category=push.category,
        thread_id=push.thread,
        mutable_content=True,
        custom_data={"interruption-level": "passive"} if is_revision else None,
    )
    data = {key: value for key, value in push.data.items() if key not in ("title", "body", "badge")}
    return {"data": data, "apns": messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=aps))}


def a_full_push(kind: Kind, platform: str) -> Push:
    """With everything that a push can have."""
    if kind is Kind.CLEAR:
        return make_clear(platform=platform)
    text = "здравствуй 👩‍👩‍👧 \"quoted\"\n\\ 'and' <b>"
    avatar, image = "https://example.com/a.png", "https://example.com/i.png"
    return make_push(
        kind,
        device_platform=platform,
        conversation_kind="group",
        conversation_title="Climbing",
        text=text,
        avatar=avatar,
        image=image,
        is_mention=True,
    )


@pytest.mark.parametrize(
    ("kind", "platform"),
    [
        (kind, platform)
        for kind in (Kind.ALERT, Kind.REVISION, Kind.CLEAR)
        for platform in ("android", "ios", "web")
        if (kind, platform) != (Kind.CLEAR, "web")
    ],
)
def test_firebase_admin_sends_what_we_send(
    google: Fcm, proxy: ConnectProxy, app: firebase_admin.App, kind: Kind, platform: str
) -> None:
    push = a_full_push(kind, platform)

    name = messaging.send(by_hand(push), app=app)

    assert name.startswith("projects/")
    assert f"{FCM_HOST}:443" in proxy.asked
    (post,) = google.posts
    assert {"message": post.message} == json.loads(wire_json(push))


def test_firebase_admin_sends_what_we_send_to_an_installation(
    google: Fcm, proxy: ConnectProxy, app: firebase_admin.App
) -> None:
    push = replace(a_full_push(Kind.ALERT, "android"), target_kind="fid", target="an-installation")

    messaging.send(by_hand(push), app=app)

    assert {"message": google.posts[0].message} == json.loads(wire_json(push))


async def test_fcm_is_reached_through_the_proxy(google: Fcm, proxy: ConnectProxy) -> None:
    provider = FcmProvider(google.credentials, GOOGLE, concurrency=1)

    outcomes = [await provider.deliver(make_push()) for _ in range(3)]
    await provider.close()

    assert outcomes == [Outcome(Verdict.SENT)] * 3
    # One connection, kept open.
    assert proxy.asked == [f"{FCM_HOST}:443"]


async def test_apple_is_reached_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Apns(tmp_path) as service:
        port = int(service.url.rpartition(":")[2])
        with ConnectProxy(port) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            key = ApnsKey.read(service.key, KEY_ID, TEAM_ID)
            # A name that only the proxy can lead anywhere, and that the certificate is for.
            provider = ApnsProvider(key, TOPIC, "https://localhost:1", tls=service.trust)
            push = replace(make_push(device_platform="ios"), target=PHONE)

            outcomes = [await provider.deliver(push) for _ in range(3)]
            await provider.close()

    assert outcomes == [Outcome(Verdict.SENT)] * 3
    assert proxy.asked == ["localhost:1"]


async def test_web_push_goes_past_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with PushService(tmp_path) as service:
        with ConnectProxy(int(service.origin.rpartition(":")[2])) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            provider = WebPushProvider(
                "AQ" * 21 + "A", "mailto:push@example.com", allows=lambda address: True, tls=service.trust
            )
            push = replace(make_push(device_platform="web"), target=service.subscribe().subscription)

            outcome = await provider.deliver(push)
            await provider.close()

    # It would look the name up by itself, and ask what we have not checked.
    assert outcome == Outcome(Verdict.SENT)
    assert proxy.asked == []
