"""
A client that never gives up: reconnects to whichever web process answers, recovers by position, keeps what it saw.

Like a phone in the field, for the stories about failures; each publication is checked for order the moment it arrives.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any
from uuid import uuid4

import httpx
import websockets

from tests.flows.people import Person
from tests.servers import ServerProcess

RETRY_SECONDS = 0.1
ANSWER_SECONDS = 15.0
RETRYABLE = (100, 111, 429, 503)


class NotAcknowledged(Exception):
    """No answer, or one that says: try again."""


class Follower:
    """One person's client. ``seen`` has, for each channel, the publications in the order of their arrival."""

    def __init__(self, person: Person, webs: list[ServerProcess]) -> None:
        self.person = person
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.acknowledged: dict[str, int] = {}
        self.in_flight: set[str] = set()
        self.times_connected = 0
        self.close_codes: list[int | None] = []
        self.problems: list[str] = []
        self._positions: dict[str, dict[str, Any]] = {}
        self._webs = itertools.cycle(webs)
        self._ids = itertools.count(2)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._socket: websockets.ClientConnection | None = None
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Follower:
        self._task = asyncio.create_task(self._live())
        await self.until(lambda: self.times_connected > 0, "connection")
        return self

    async def stop(self) -> None:
        # Closing a websocket may turn the cancellation into a time-out of its own, which only ends that connection.
        self._is_stopping = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        assert self.problems == []

    def freeze(self) -> None:
        """Read nothing more and say nothing more, as a phone that has lost its network; the socket stays open."""
        assert self._socket
        self._socket.transport.pause_reading()

    async def until(self, holds: Any, what: str, seconds: float = 30.0) -> None:
        """Wait until ``holds()``; fail, saying what was waited for, after ``seconds``."""
        async with asyncio.timeout(seconds) as limit:
            try:
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
            except asyncio.CancelledError:
                if limit.expired():
                    raise AssertionError(f"{self.person.name} waited {seconds} s for {what}") from None
                raise

    def top(self, channel: str) -> int:
        return int(self._positions.get(channel, {}).get("offset", 0))

    def texts(self, channel: str) -> list[str]:
        return [
            p["data"]["message"]["text"] for p in self.seen.get(channel, ()) if p["data"].get("type") == "message.sent"
        ]

    # --- sending

    async def send(self, conversation: str, text: str) -> int:
        """Send over the socket until it is acknowledged, as often as it takes; return the seq."""
        data = {"conversation": conversation, "client_id": str(uuid4()), "text": text}
        return await self._insist(text, lambda: self._rpc_send(data))

    async def send_over_http(self, web: ServerProcess, conversation: str, text: str) -> int:
        """The same through the other door, always at one web process."""
        body = {"client_id": str(uuid4()), "text": text}
        return await self._insist(text, lambda: self._http_send(web, conversation, body))

    async def _insist(self, text: str, attempt: Any) -> int:
        self.in_flight.add(text)
        while True:
            try:
                seq = int(await attempt())
            except NotAcknowledged:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.in_flight.discard(text)
            self.acknowledged[text] = seq
            return seq

    async def _rpc_send(self, data: dict[str, Any]) -> int:
        reply = await self.call("message.send", data)
        return int(reply["seq"])

    async def call(self, method: str, data: dict[str, Any]) -> dict[str, Any]:
        """
        Call a method once.

        Raises:
            NotAcknowledged: no connection, no answer, or a retryable error.
        """
        id = next(self._ids)
        self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            if self._socket is None:
                raise NotAcknowledged
            await self._socket.send(json.dumps({"id": id, "rpc": {"method": method, "data": data}}))
            reply = await asyncio.wait_for(self._waiting[id], ANSWER_SECONDS)
        except (TimeoutError, websockets.ConnectionClosed):
            raise NotAcknowledged from None
        finally:
            self._waiting.pop(id).cancel()
        error = reply.get("error")
        if error and error["code"] in RETRYABLE:
            raise NotAcknowledged
        assert not error, error
        result: dict[str, Any] = reply["rpc"]["data"]
        return result

    async def _http_send(self, web: ServerProcess, conversation: str, body: dict[str, Any]) -> int:
        headers = {"Authorization": f"Bearer {self.person.token}"}
        try:
            async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as http:
                answer = await http.post(
                    f"{web.url}/v1/conversations/{conversation}/messages", json=body, headers=headers
                )
        except httpx.HTTPError:
            raise NotAcknowledged from None
        if answer.status_code in (429, 502, 503):
            raise NotAcknowledged
        assert answer.is_success, answer.text
        return int(answer.json()["seq"])

    # --- the connection

    async def _live(self) -> None:
        for web in self._webs:
            if self._is_stopping:
                return
            try:
                async with websockets.connect(web.websocket_url, max_size=1 << 22, ping_interval=None) as socket:
                    await self._follow(socket)
            except (OSError, websockets.WebSocketException, NotAcknowledged, TimeoutError):
                pass
            finally:
                self._socket = None
                self._lose_answers()
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, socket: websockets.ClientConnection) -> None:
        try:
            await self._connect(socket)
            async for frame in socket:
                for line in str(frame).split("\n"):
                    await self._take(socket, json.loads(line))
        finally:
            self.close_codes.append(socket.close_code)

    async def _connect(self, socket: websockets.ClientConnection) -> None:
        subs = {channel: {"recover": True, **position} for channel, position in self._positions.items()}
        await socket.send(json.dumps({"id": 1, "connect": {"token": self.person.token, "subs": subs}}))
        first, *more = str(await asyncio.wait_for(socket.recv(), ANSWER_SECONDS)).split("\n")
        reply = json.loads(first)
        if "error" in reply:
            assert reply["error"].get("temporary"), reply
            raise NotAcknowledged
        for channel, result in reply["connect"].get("subs", {}).items():
            self._subscribed(channel, result)
        self._socket = socket
        self.times_connected += 1
        self._changed.set()
        for line in more:
            await self._take(socket, json.loads(line))

    def _subscribed(self, channel: str, result: dict[str, Any]) -> None:
        known = self._positions.get(channel)
        if known and not result.get("recovered"):
            self.problems.append(f"{channel} was not recovered from {known}: {result}")
        start = known["offset"] if known else result.get("offset", 0)
        self._positions[channel] = {"offset": start, "epoch": result.get("epoch", "")}
        for publication in result.get("publications", ()):
            self._see(channel, publication)

    async def _take(self, socket: websockets.ClientConnection, reply: dict[str, Any]) -> None:
        if not reply:
            await socket.send("{}")
        elif waiting := self._waiting.get(reply.get("id", 0)):
            if not waiting.done():
                waiting.set_result(reply)
        elif push := reply.get("push"):
            if "pub" in push:
                self._see(push["channel"], push["pub"])
            elif "subscribe" in push:
                self._positions.setdefault(
                    push["channel"],
                    {"offset": push["subscribe"].get("offset", 0), "epoch": push["subscribe"].get("epoch", "")},
                )

    def _see(self, channel: str, publication: dict[str, Any]) -> None:
        if offset := publication.get("offset"):
            position = self._positions[channel]
            if offset != position["offset"] + 1:
                self.problems.append(f"{channel}: {offset} came after {position['offset']}")
            position["offset"] = offset
            self.seen.setdefault(channel, []).append(publication)
        self._changed.set()

    def _lose_answers(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NotAcknowledged())
