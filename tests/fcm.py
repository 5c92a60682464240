"""
A local stand-in for Firebase Cloud Messaging and the OAuth endpoint before it, over real sockets.

It verifies the signed assertion, hands out access tokens that expire, checks each message as FCM's reference describes
it, answers what a test has scripted for a target, and hands what it accepts to a simulated device (``tests.devices``).
Rules are taken from FCM's documentation, named beside them.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import jsonschema
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.devices import Clock, Phone, from_fcm, wrong_with_apple, wrong_with_web

PROJECT = "roost-test"
ACCOUNT = f"pusher@{PROJECT}.iam.gserviceaccount.com"
# Google wants its own address as audience, wherever the endpoint is reached.
# https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests
AUDIENCE = "https://oauth2.googleapis.com/token"
# Either lets an account send. https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
SCOPES = {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# "Maximum payload size […] 4096 bytes." https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type
MAX_PAYLOAD_BYTES = 4096
# Keys that an app may not use. https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
RESERVED_KEY = re.compile(r"^(from|message_type|google.*|gcm.*)$")
# What the check of a token says, in either of the two forms: https://firebase.google.com/docs/cloud-messaging/error-codes
BAD_TOKEN = "The registration token is not a valid FCM registration token"
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}

# https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
_MESSAGE = {
    "type": "object",
    "additionalProperties": False,
    "oneOf": [{"required": ["token"]}, {"required": ["fid"]}, {"required": ["topic"]}, {"required": ["condition"]}],
    "properties": {
        "name": {"type": "string"},
        "token": {"type": "string", "minLength": 1},
        "fid": {"type": "string", "minLength": 1},
        "topic": {"type": "string", "minLength": 1},
        "condition": {"type": "string", "minLength": 1},
        "data": _STRINGS,
        "notification": {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: {"type": "string"} for key in ("title", "body", "image")},
        },
        "android": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "collapse_key": {"type": "string"},
                "priority": {"enum": ["high", "normal", "HIGH", "NORMAL"]},
                "ttl": {"type": "string", "pattern": r"^\d+(\.\d{1,9})?s$"},
                "restricted_package_name": {"type": "string"},
                "data": _STRINGS,
                "notification": {"type": "object"},
                "fcm_options": {"type": "object"},
                "direct_boot_ok": {"type": "boolean"},
            },
        },
        "webpush": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "headers": _STRINGS,
                "data": _STRINGS,
                "notification": {"type": "object"},
                "fcm_options": {"type": "object"},
            },
        },
        "apns": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "headers": _STRINGS,
                "payload": {"type": "object", "required": ["aps"], "properties": {"aps": {"type": "object"}}},
                "fcm_options": {"type": "object"},
                "live_activity_token": {"type": "string"},
            },
        },
        "fcm_options": {"type": "object"},
    },
}
_BODY = {
    "type": "object",
    "additionalProperties": False,
    "required": ["message"],
    "properties": {"message": _MESSAGE, "validate_only": {"type": "boolean"}},
}
_VALIDATOR = jsonschema.Draft202012Validator(_BODY)


@dataclass(kw_only=True)
class Answer:
    """
    What the endpoint does with one request. As it stands: accepts.

    ``is_accepted`` says whether the device gets the push, whatever the sender then hears. ``hold`` keeps the answer
    back until it is set (or the endpoint closes), ``resets`` cuts the connection instead of answering.
    """

    status: int = 200
    code: str | None = None
    detail: str = ""
    # What is wrong, by field; Google calls them violations.
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_accepted: bool | None = None
    hold: threading.Event | None = None
    resets: bool = False

    @property
    def reaches_the_device(self) -> bool:
        return self.status == 200 if self.is_accepted is None else self.is_accepted


def refusal(status: int, code: str | None = None, **headers: str) -> Answer:
    """An error as FCM words it; ``Retry_After="3"`` becomes the header ``Retry-After``."""
    return Answer(status=status, code=code, headers={name.replace("_", "-"): value for name, value in headers.items()})


def bad_token() -> Answer:
    """The refusal of a token that is none, as the guide shows it."""
    return Answer(status=400, code="INVALID_ARGUMENT", detail=BAD_TOKEN)


def bad_token_field() -> Answer:
    """The same, by the name of the field."""
    fields = {"message.token": "Invalid registration token"}
    detail = "Request contains an invalid argument."
    return Answer(status=400, code="INVALID_ARGUMENT", detail=detail, fields=fields)


@dataclass(frozen=True)
class Post:
    """One request that reached the endpoint; a probe is judged, and sent to nobody."""

    at: float
    target: str
    message: Mapping[str, Any]
    status: int
    is_probe: bool = False
    # How many requests were being answered then, this one included.
    in_flight: int = 0


class OAuth:
    """The token endpoint's side: which access tokens are good, and what the next requests are answered."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.always: Answer | None = None
        self.expires_in = 3600
        self.requests = 0
        self._good_until: dict[str, float] = {}

    def issue(self) -> str:
        token = secrets.token_urlsafe(24)
        self._good_until[token] = time.monotonic() + self.expires_in
        return token

    def is_good(self, token: str) -> bool:
        return self._good_until.get(token, 0.0) > time.monotonic()

    def revoke_all(self) -> None:
        """Refuse every access token that is out, as if it had expired."""
        self._good_until.clear()


class Fcm:
    """The endpoint; a context manager. ``url`` is the base address, ``credentials`` a service account's JSON."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.posts: list[Post] = []
        self.clock = Clock()
        self.phones: defaultdict[str, Phone] = defaultdict(lambda: Phone(self.clock))
        self.oauth = OAuth()
        # What every message is answered that no script of its target answers.
        self.always: Answer | None = None
        self.delay_seconds = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self._scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fcm = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
            # Each connection shakes hands in its own thread, when it is first read from.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.url = f"https://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> str:
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "1",
                "private_key": _key_pair()[0],
                "client_email": ACCOUNT,
                "client_id": "1",
                "token_uri": f"{self.url}/token",
            }
        )

    def script(self, target: str, *answers: Answer) -> None:
        """Answer the next messages to this target so; those after them are accepted."""
        with self._changed:
            self._scripts[target].extend(answers)

    def wait_for_posts(self, count: int, seconds: float = 15.0) -> None:
        """Wait until so many messages have been received and judged, answered or not."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.posts) >= count, seconds), f"only {len(self.posts)} posts"

    def push_ids(self, target: str) -> list[str]:
        """The push ids that were sent to a target, repetitions included."""
        return [post.message["data"]["push_id"] for post in self.posts if post.target == target and not post.is_probe]

    def judge(self, message: Mapping[str, Any], *, is_probe: bool = False) -> Answer:
        """Decide about a message that arrived, and hand it to the device if it is accepted (and no probe)."""
        target = message.get("token") or message.get("fid") or ""
        with self._changed:
            script = self._scripts[target]
            answer = script.popleft() if script else self.always or Answer()
            if answer.reaches_the_device and not is_probe:
                self.phones[target].take(from_fcm(message, self.clock()))
            self.posts.append(Post(time.monotonic(), target, message, answer.status, is_probe, self.in_flight))
            self._changed.notify_all()
        return answer

    def hold(self, answer: Answer) -> None:
        """Keep an answer back as long as it says."""
        while answer.hold and not answer.hold.wait(0.05) and not self._closing.is_set():
            pass

    def count_in_flight(self, change: int) -> None:
        with self._changed:
            self.in_flight += change
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    fcm: Fcm

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or that gave up waiting, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without it the answer's head and body wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/token":
            self._answer_oauth(body)
        elif self.path == f"/v1/projects/{PROJECT}/messages:send":
            self._answer_message(body)
        else:
            self._send(404, b"<html>no such page</html>", {"Content-Type": "text/html"})

    def _answer_oauth(self, body: bytes) -> None:
        oauth = self.server.fcm.oauth
        oauth.requests += 1
        scripted = oauth.answers.popleft() if oauth.answers else oauth.always
        if scripted:
            self.server.fcm.hold(scripted)
            if scripted.resets:
                self._reset()
            else:
                self._send(scripted.status, scripted.body or b"", scripted.headers)
            return
        problem = _wrong_with_assertion(body)
        if problem:
            self._send_json(400, {"error": "invalid_grant", "error_description": problem})
            return
        self._send_json(200, {"access_token": oauth.issue(), "expires_in": oauth.expires_in, "token_type": "Bearer"})

    def _answer_message(self, body: bytes) -> None:
        fcm = self.server.fcm
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not fcm.oauth.is_good(token):
            self._send_error(401)
            return
        problem = wrong_with(body)
        if problem:
            self._send_error(400, "INVALID_ARGUMENT", problem)
            return
        fcm.count_in_flight(+1)
        try:
            time.sleep(fcm.delay_seconds)
            request = json.loads(body)
            answer = fcm.judge(request["message"], is_probe=request.get("validate_only", False))
            fcm.hold(answer)
        finally:
            fcm.count_in_flight(-1)
        self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        if answer.resets:
            self._reset()
        elif answer.body is not None:
            self._send(answer.status, answer.body, answer.headers)
        elif answer.status == 200:
            self._send_json(200, {"name": f"projects/{PROJECT}/messages/{secrets.randbits(60)}"})
        else:
            self._send_error(answer.status, answer.code, answer.detail, answer.headers, answer.fields)

    def _send_error(
        self,
        status: int,
        code: str | None = None,
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        # https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
        details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
        if fields:
            violations = [{"field": name, "description": words} for name, words in fields.items()]
            details.append({"@type": BAD_REQUEST, "fieldViolations": violations})
        name = _STATUS_NAMES.get(status, "UNKNOWN")
        error = {"code": status, "message": detail or name, "status": name, "details": details}
        self._send_json(status, {"error": error}, headers)

    def _send_json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        # With a linger time of zero the kernel sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the posts are kept."""


def wrong_with(body: bytes) -> str | None:
    """What FCM would not take about a request's body, or None."""
    try:
        value = json.loads(body)
        _VALIDATOR.validate(value)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    message = value["message"]
    reserved = [key for key in message.get("data", {}) if RESERVED_KEY.match(key)]
    if reserved:
        return f"Invalid data payload key: {reserved[0]}"
    if _payload_bytes(message) > MAX_PAYLOAD_BYTES:
        return "Message too big"
    if apns := message.get("apns"):
        return wrong_with_apple(apns.get("headers", {}), apns["payload"]["aps"])
    return wrong_with_web(message["webpush"].get("headers", {})) if "webpush" in message else None


def _payload_bytes(message: Mapping[str, Any]) -> int:
    # Counted as what Apple gets, JSON in UTF-8 with the data beside ``aps``: the strictest of the three readings.
    payload = {**message.get("data", {}), **message.get("apns", {}).get("payload", {})}
    if "notification" in message:
        payload["notification"] = message["notification"]
    return len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())


def _wrong_with_assertion(body: bytes) -> str | None:
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    if form.get("grant_type") != JWT_GRANT:
        return "unsupported grant type"
    try:
        claims = jwt.decode(
            form.get("assertion", ""),
            _key_pair()[1],
            algorithms=["RS256"],
            audience=AUDIENCE,
            issuer=ACCOUNT,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )
    except jwt.PyJWTError as error:
        return str(error)
    if claims["exp"] - claims["iat"] > 3600:
        return "lives longer than an hour"
    return None if SCOPES & set(claims.get("scope", "").split()) else "no scope that lets it send"


@cache
def _key_pair() -> tuple[str, str]:
    """One key for the whole run: making one takes a tenth of a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
