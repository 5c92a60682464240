"""
Firebase Cloud Messaging, HTTP v1.

firebase-admin reads the credentials and writes the message; the POST is ours, because firebase-admin's own transport
repeats requests silently, sleeps in its thread on ``Retry-After`` and starts a thread per message.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from firebase_admin import credentials as firebase_credentials
from firebase_admin import messaging
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession, Request
from requests.adapters import HTTPAdapter
from requests.exceptions import ProxyError
from urllib3.exceptions import NewConnectionError

from models.deliveries import Kind

from ..payload import Push
from ..retry_after import seconds_of
from . import apple
from .answers import read_object, readable
from .base import NOT_CONNECTED, Outcome, Verdict, web_topic

CONNECT_SECONDS = 3.0
# Google asks for at least ten seconds before a request is given up and repeated.
# https://firebase.google.com/docs/cloud-messaging/scale-fcm
READ_SECONDS = 10.0
# An access token is renewed this long before it ends: a push in flight must not outlive it.
TOKEN_MARGIN_SECONDS = 60.0
# The documented wait after a 429 without ``Retry-After``; the same page.
QUOTA_SECONDS = 60.0
# The longest life that FCM takes. https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan
MAX_TTL_SECONDS = 28 * 86_400
# The project's quota, unless Google has raised it. https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas
MESSAGES_PER_MINUTE = 600_000
# https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type
MAX_PAYLOAD_BYTES = 4_096
MAX_ANSWER_BYTES = 64 * 1024

# https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
_TARGET_GONE = frozenset({"UNREGISTERED", "SENDER_ID_MISMATCH"})
# Apple's key or certificate is missing in the Firebase project, or does not fit.
_APPLE_ONLY = frozenset({"THIRD_PARTY_AUTH_ERROR"})
_CODE = re.compile(r"[A-Z_]{1,50}")
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
# A refused token has no code of its own. Either a field is named, or the message says it:
# https://firebase.google.com/docs/cloud-messaging/error-codes
_TARGET_FIELDS = frozenset({"message.token", "message.fid"})
_TARGET_WORDS = re.compile(r"\bregistration token\b.*\bnot a valid\b", re.IGNORECASE)


class FcmProvider:
    """Sends through FCM with bounded threads and one connection for each."""

    name = "fcm"
    concurrency = 64
    per_minute = MESSAGES_PER_MINUTE

    def __init__(self, credentials: str, base_url: str, *, concurrency: int = concurrency) -> None:
        """
        Args:
            credentials: path of a service account's JSON file, or the JSON itself. Its ``token_uri`` is honoured.
            base_url: address of the API.

        Raises:
            ValueError: the credentials are not a service account's.
        """
        certificate = firebase_credentials.Certificate(_service_account(credentials))
        if not certificate.project_id:
            raise ValueError("the FCM credentials name no project_id")
        self.concurrency = concurrency
        self._url = f"{base_url.rstrip('/')}/v1/projects/{certificate.project_id}/messages:send"
        self._session = _session(AccessToken(certificate.get_credential()), base_url, concurrency)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="fcm")

    async def deliver(self, push: Push) -> Outcome:
        try:
            body = wire_json(push)
        except ValueError as error:
            return Outcome(Verdict.REJECTED, "not_encodable", answer=readable(str(error), push))
        # The request has more in it than what counts: mostly there is nothing to count.
        if len(body) > MAX_PAYLOAD_BYTES and payload_bytes(body) > MAX_PAYLOAD_BYTES:
            return Outcome(Verdict.TOO_BIG, "too_big")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._try, push, body)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _try(self, push: Push, body: bytes) -> Outcome:
        outcome, names_target = self._post(push, body)
        return self._probed(push, outcome) if names_target else outcome

    def _probed(self, push: Push, refusal: Outcome) -> Outcome:
        """
        What a refusal means that names the target. Deleting a good token cannot be undone, so FCM is asked once more.

        It judges a message that holds nothing but the target, and sends it to nobody (``validate_only``).
        """
        outcome, names_target = self._post(push, probe_json(push))
        if names_target:
            return replace(refusal, verdict=Verdict.TARGET_GONE, code="400_INVALID_TOKEN")
        if outcome.verdict in (Verdict.SENT, Verdict.REJECTED, Verdict.TOO_BIG):
            return refusal
        # Gone for another reason, or not judged at all: then both are asked again later.
        return outcome

    def _post(self, push: Push, body: bytes) -> tuple[Outcome, bool]:
        """Send one request. Return the outcome, and whether it is a refusal that names the target."""
        try:
            response = self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            )
        except GoogleAuthError as error:
            code = _oauth_code(error)
            return Outcome(Verdict.PAUSE, f"oauth_{code}", answer=f"No access token: {code}"), False
        except requests.RequestException as error:
            return Outcome(Verdict.RETRY, _connection_code(error), answer=type(error).__name__), False
        with response:
            status, answer = response.status_code, _read(response)
        if status == 401:
            self._session.credentials.forget()
        outcome = outcome_of(status, response.headers, answer)
        if outcome.verdict is Verdict.SENT:
            return outcome, False
        said = readable(answer_of(status, answer), push)
        return replace(outcome, answer=said), status == 400 and names_target(answer)


class AccessToken(Credentials):
    """
    A service account's access token, renewed by one thread while the others wait.

    The service account's own class would also look up, over the network, in which regions Google may be asked; FCM
    has no use for the answer.
    """

    def __init__(self, service_account: Credentials) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._service_account = service_account
        self._lock = threading.Lock()
        self._failed: tuple[float, GoogleAuthError] | None = None

    def before_request(self, request: Request, method: str, url: str, headers: dict[str, str]) -> None:
        self.apply(headers, self._current(request))  # type: ignore[no-untyped-call]

    def refresh(self, request: Request) -> None:
        self._service_account.refresh(request)
        self.token, self.expiry = self._service_account.token, self._service_account.expiry

    def forget(self) -> None:
        """Ask for another token next time; this one was refused."""
        with self._lock:
            self.token = None

    def _current(self, request: Request) -> str:
        asked = time.monotonic()
        with self._lock:
            # Whoever waited for an attempt that failed shares its answer, instead of asking one after the other.
            if self._failed and self._failed[0] >= asked:
                raise self._failed[1]
            if not self._is_fresh():
                self._renew(request)
            return str(self.token)

    def _renew(self, request: Request) -> None:
        try:
            self.refresh(request)
        except GoogleAuthError as error:
            self._failed = (time.monotonic(), error)
            raise
        self._failed = None

    def _is_fresh(self) -> bool:
        if not self.token or self.expiry is None:
            return False
        # google-auth keeps times without a zone, in UTC.
        left = self.expiry.replace(tzinfo=UTC) - datetime.now(UTC)
        return bool(left.total_seconds() > TOKEN_MARGIN_SECONDS)


def wire_json(push: Push) -> bytes:
    """
    The request's body: data only for Android, an alert for Apple, data for the web.

    Raises:
        ValueError: the push cannot be told in FCM's words.
    """
    return b'{"message": ' + str(_message(push)).encode() + b"}"


def payload_bytes(body: bytes) -> int:
    """How much of a request counts: for Apple the payload that FCM makes of it, else the data's keys and values."""
    message = json.loads(body)["message"]
    data: dict[str, str] = message.get("data", {})
    if "apns" in message:
        payload = {**data, **message["apns"]["payload"]}
        return len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())
    return sum(len(key.encode()) + len(value.encode()) for key, value in data.items())


def probe_json(push: Push) -> bytes:
    """A request that lets FCM judge the target, and sends nothing."""
    return json.dumps({"message": _target(push), "validate_only": True}).encode()


def names_target(body: bytes | None) -> bool:
    """Whether a refusal says that it is the target that is wrong."""
    error = _error(body)
    fields = {_text(violation.get("field")) for violation in _violations(error)}
    return bool(fields & _TARGET_FIELDS or _TARGET_WORDS.search(_text(error.get("message"))))


def answer_of(status: int, body: bytes | None) -> str:
    """What FCM said, as one line; pages of whatever stands before it are told by their status."""
    error = _error(body)
    if not error:
        return f"HTTP {status}, no error of FCM's"
    told = [_text(error.get("message")), *(_text(violation.get("description")) for violation in _violations(error))]
    codes = [_text(error.get("status")), _error_code(body) or ""]
    return f"{' '.join(dict.fromkeys(filter(None, codes)))}: {' '.join(dict.fromkeys(filter(None, told)))}"


def outcome_of(status: int, headers: Mapping[str, str], body: bytes | None) -> Outcome:
    """
    What an answer means, by its status and FCM's error code.

    ``body`` is None if it could not be read; then a refusal cannot be told from a missing target, and is tried again.
    """
    code = _error_code(body)
    label = f"{status}_{code}" if code else f"http_{status}"
    if 200 <= status < 300:
        return Outcome(Verdict.SENT)
    if code in _TARGET_GONE and 400 <= status < 500:
        return Outcome(Verdict.TARGET_GONE, label)
    if status == 429:
        delay = seconds_of(headers)
        return Outcome(Verdict.RETRY, label, QUOTA_SECONDS if delay is None else delay)
    if status >= 500 or status == 408:
        return Outcome(Verdict.RETRY, label, seconds_of(headers))
    if status in (401, 403, 404):
        if body is not None and not code:
            return Outcome(Verdict.PAUSE, label)
        # A missing APNs key is repaired by people, and until then concerns Apple's devices only.
        return Outcome(Verdict.RETRY, label, is_about_target=code in _APPLE_ONLY)
    if status < 400:
        # A redirect: the base address is wrong.
        return Outcome(Verdict.PAUSE, label)
    return Outcome(Verdict.TOO_BIG if status == 413 or _says_too_big(body) else Verdict.REJECTED, label)


def _message(push: Push) -> messaging.Message:
    with warnings.catch_warnings():
        # FCM goes on taking tokens, and apps in the field have nothing else.
        warnings.filterwarnings("ignore", r"Message\.token is deprecated", DeprecationWarning)
        return messaging.Message(**_target(push), **_blocks(push))


def _target(push: Push) -> dict[str, str]:
    if push.target_kind not in ("token", "fid"):
        raise ValueError(f"FCM has no target of the kind {push.target_kind!r}")
    return {push.target_kind: push.target}


def _blocks(push: Push) -> dict[str, Any]:
    is_clear = push.kind is Kind.CLEAR
    if is_clear and push.platform == "web":
        # A browser that is pushed to has to show something.
        raise ValueError("there are no clears for the web")
    # Zero would mean "now or never", which loses it for every device that sleeps.
    ttl = min(max(1, push.ttl_seconds), MAX_TTL_SECONDS)
    if push.platform == "ios":
        # FCM puts the data into Apple's 4,096 bytes, beside the alert.
        return {"data": apple.data_beside(push), "apns": _apns(push)}
    blocks: dict[str, Any] = {"data": push.data}
    if push.platform != "web":
        blocks["android"] = _android(push, ttl)
    if push.platform != "android" and not is_clear:
        urgency = "normal" if push.kind is Kind.REVISION else "high"
        headers = {"TTL": str(ttl), "Urgency": urgency, "Topic": web_topic(push)}
        blocks["webpush"] = messaging.WebpushConfig(headers=headers)
    return blocks


def _android(push: Push, ttl: int) -> messaging.AndroidConfig:
    if push.kind is Kind.CLEAR:
        # Of the clears that wait for a phone only the last one counts: it says what the others said.
        return messaging.AndroidConfig(priority="normal", collapse_key=push.collapse, ttl=ttl)
    # What wakes a phone and shows nothing new costs the app its high priority.
    # https://firebase.google.com/docs/cloud-messaging/android-message-priority
    priority = "normal" if push.kind is Kind.REVISION else "high"
    return messaging.AndroidConfig(priority=priority, ttl=ttl)


def _apns(push: Push) -> messaging.APNSConfig:
    headers = {"apns-priority": apple.priority(push), "apns-expiration": str(int(push.expires_at.timestamp()))}
    if apple.push_type(push) == "alert":
        # The same on every try, and for all pushes of a conversation: Apple shows one notification for it.
        headers |= {"apns-push-type": "alert", "apns-collapse-id": push.collapse}
        level = apple.interruption_level(push)
        aps = messaging.Aps(
            alert=messaging.ApsAlert(title=push.title, body=push.body),
            badge=push.badge,
            sound=push.sound,
            category=push.category or None,
            thread_id=push.thread or None,
            mutable_content=True,
            custom_data={"interruption-level": level} if level else None,
        )
    else:
        # With anything else in it, it would be no background push.
        # https://developer.apple.com/documentation/usernotifications/pushing-background-updates-to-your-app
        headers["apns-push-type"] = "background"
        aps = messaging.Aps(content_available=True)
    return messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=aps))


def _service_account(credentials: str) -> dict[str, Any]:
    text = credentials if credentials.lstrip().startswith("{") else Path(credentials).read_text(encoding="utf-8")
    account = json.loads(text)
    if not isinstance(account, dict):
        raise ValueError("the FCM credentials are no JSON object")
    return account


def _session(token: AccessToken, base_url: str, connections: int) -> AuthorizedSession:
    # No refresh and second POST on 401, no repetition of what may have been accepted.
    session = AuthorizedSession(token, refresh_status_codes=(), max_refresh_attempts=0, auth_request=Request())
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections, max_retries=0))
    # Proxy and certificates of the environment, looked up once: for each request it would cost as much as the rest.
    found = session.merge_environment_settings(base_url, {}, None, None, None)
    session.proxies, session.verify, session.trust_env = dict(found["proxies"]), found["verify"], False
    return session


def _read(response: requests.Response) -> bytes | None:
    """The body, or None if it does not come in time; what the status says holds without it."""
    deadline = time.monotonic() + READ_SECONDS
    body = b""
    try:
        for chunk in response.iter_content(4096):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                return None
    except requests.RequestException:
        return None
    return body


def _error(body: bytes | None) -> Mapping[str, Any]:
    error = read_object(body).get("error")
    return error if isinstance(error, dict) else {}


def _details(error: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("@type") == kind:
            yield detail


def _violations(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = [detail.get("fieldViolations") for detail in _details(error, _BAD_REQUEST)]
    return [one for some in found if isinstance(some, list) for one in some if isinstance(one, dict)]


def _error_code(body: bytes | None) -> str | None:
    codes = (detail.get("errorCode") for detail in _details(_error(body), _FCM_ERROR))
    return next((code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)), None)


def _says_too_big(body: bytes | None) -> bool:
    # There is no code of its own for it, only the text of INVALID_ARGUMENT.
    return "too big" in _text(_error(body).get("message")).lower()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _oauth_code(error: GoogleAuthError) -> str:
    """OAuth's own error word (``invalid_grant``), else the kind of failure; never its text."""
    for argument in error.args:
        if isinstance(argument, Mapping) and isinstance(argument.get("error"), str):
            return re.sub(r"\W", "", argument["error"])[:40]
    return type(error).__name__


def _connection_code(error: requests.RequestException) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.ConnectTimeout | ProxyError) or isinstance(reason, NewConnectionError):
        return NOT_CONNECTED
    return "timeout" if isinstance(error, requests.Timeout) else "connection_failed"
