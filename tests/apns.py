"""
A local service that takes what Apple's does: HTTP/2 over TLS, a signed token, a push; and hands it to an iPhone.

Rules and error words are those of
https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns and
https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded

from tests.certificates import make_certificate
from tests.devices import Clock, Phone, from_apns, wrong_with_apple

KEY_ID, TEAM_ID, TOPIC = "KEY1234567", "TEAM123456", "com.example.app"
MAX_PAYLOAD_BYTES = 4_096
MAX_TOKEN_SECONDS = 3600

_PATH = re.compile(r"/3/device/([0-9a-fA-F]+)")


@dataclass
class Answer:
    """What the service says to one request, and whether the phone gets it. ``resets`` ends the connection instead."""

    status: int = 200
    reason: str = ""
    timestamp: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_accepted: bool | None = None
    resets: bool = False


@dataclass(frozen=True)
class Request:
    """What reached the service."""

    token: str
    headers: Mapping[str, str]
    payload: Mapping[str, Any]
    connection: int


class Apns:
    """The service, an asynchronous context manager; ``answers`` are given one after the other, then 200."""

    def __init__(self, folder: Path) -> None:
        self._certificate, self._certificate_key = make_certificate(folder)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        self.clock = Clock()
        self.phones: defaultdict[str, Phone] = defaultdict(lambda: Phone(self.clock))
        self.connections = 0
        self._serving: set[asyncio.Task[None]] = set()
        self.most_at_once = 0
        self.delay_seconds = 0.0
        self.clock_ahead_seconds = 0.0
        self.trust = ssl.create_default_context(cafile=str(self._certificate))

    @property
    def key(self) -> str:
        """The ``.p8`` key that it knows the public half of."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    async def __aenter__(self) -> Self:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._certificate, self._certificate_key)
        tls.set_alpn_protocols(["h2"])
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()

    async def stop(self) -> None:
        """Close, and let go of the connections that are still open."""
        self._server.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        serving = asyncio.current_task()
        assert serving
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        await _Connection(self, self.connections, reader, writer).run()

    def judge(self, request: Request | None, headers: Mapping[str, str], path: str, body: bytes) -> Answer:
        """Decide about a request; the phone gets what is accepted."""
        problem = self._problem(headers, path, body)
        if problem:
            return problem
        assert request
        self.requests.append(request)
        answer = self.answers.popleft() if self.answers else Answer()
        if answer.status == 200 if answer.is_accepted is None else answer.is_accepted:
            self.phones[request.token].take(from_apns(request.headers, request.payload, request))
        return answer

    def _problem(self, headers: Mapping[str, str], path: str, body: bytes) -> Answer | None:
        if not _PATH.fullmatch(path):
            return Answer(404, "BadPath")
        if word := self._wrong_with_token(headers.get("authorization", "")):
            return Answer(403, word)
        # Calls go to the topic of the app's PushKit registration.
        # https://developer.apple.com/documentation/pushkit/responding-to-voip-notifications-from-pushkit
        topic = f"{TOPIC}.voip" if headers.get("apns-push-type") == "voip" else TOPIC
        if headers.get("apns-topic") != topic:
            return Answer(400, "TopicDisallowed" if headers.get("apns-topic") else "MissingTopic")
        if word := wrong_with_apple(headers, json.loads(body)["aps"]):
            return Answer(400, word)
        if str(UUID(headers["apns-id"])) != headers["apns-id"]:
            return Answer(400, "BadMessageId")
        return Answer(413, "PayloadTooLarge") if len(body) > MAX_PAYLOAD_BYTES else None

    def _wrong_with_token(self, header: str) -> str | None:
        scheme, _, token = header.partition(" ")
        if scheme != "bearer":
            return "MissingProviderToken"
        try:
            claims = jwt.decode(token, self._key.public_key(), ["ES256"], issuer=TEAM_ID)
        except jwt.PyJWTError:
            return "InvalidProviderToken"
        if jwt.get_unverified_header(token).get("kid") != KEY_ID:
            return "InvalidProviderToken"
        return "ExpiredProviderToken" if self._now() - claims["iat"] > MAX_TOKEN_SECONDS else None

    def _now(self) -> float:
        return time.time() + self.clock_ahead_seconds


@contextmanager
def in_thread(service: Apns) -> Iterator[Apns]:
    """Run the service beside a test that is not asynchronous itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(service.__aenter__(), loop).result()
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Connection:
    """One HTTP/2 connection; requests are answered as they end, several at once."""

    def __init__(self, apns: Apns, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._apns = apns
        self._number = number
        self._reader, self._writer = reader, writer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._open: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._h2.initiate_connection()
        self._flush()
        try:
            while data := await self._reader.read(65_536):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self._writer.close()

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._open[event.stream_id] = (dict(event.headers), bytearray())
            self._apns.most_at_once = max(self._apns.most_at_once, len(self._open))
        elif isinstance(event, DataReceived):
            self._open[event.stream_id][1].extend(event.data)
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            task = asyncio.create_task(self._answer(event.stream_id))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, stream: int) -> None:
        await asyncio.sleep(self._apns.delay_seconds)
        headers, body = self._open.pop(stream)
        path = headers[":path"]
        found = _PATH.fullmatch(path)
        request = found and Request(found[1], headers, json.loads(body), self._number)
        answer = self._apns.judge(request, headers, path, bytes(body))
        if answer.resets:
            self._writer.transport.abort()
            return
        words = {"reason": answer.reason} if answer.reason else {}
        said = json.dumps(words | ({"timestamp": answer.timestamp} if answer.timestamp is not None else {}))
        lines = [(":status", str(answer.status)), ("apns-id", headers.get("apns-id", "")), *answer.headers.items()]
        self._h2.send_headers(stream, lines)
        self._h2.send_data(stream, said.encode() if answer.status != 200 else b"", end_stream=True)
        self._flush()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
