"""Phones on the official SDKs: the example programs in ``clients/``, each its own process, driven by JSON lines."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import servers

CLIENTS = Path(__file__).resolve().parents[2] / "clients"
COMMANDS = {
    "js": ["node", str(CLIENTS / "js" / "phone.mjs")],
    "js-protobuf": ["node", str(CLIENTS / "js" / "phone.mjs"), "--protobuf"],
    "js-http-stream": ["node", str(CLIENTS / "js" / "phone.mjs"), "--http-stream"],
    "js-protobuf-http-stream": ["node", str(CLIENTS / "js" / "phone.mjs"), "--protobuf", "--http-stream"],
    "python": [sys.executable, str(CLIENTS / "python" / "phone.py")],
    "python-protobuf": [sys.executable, str(CLIENTS / "python" / "phone.py"), "--protobuf"],
}
# What has to be there for an SDK beside Python.
TOOLS = {"js": "node", "go": "go", "java": "mvn"}
BUILD_SECONDS = 300
DEADLINE = 20.0

Event = dict[str, Any]


def built_command(sdk: str) -> list[str]:
    """How a phone is started that has to be built first, in one of its encodings."""
    language, _, encoding = sdk.partition("-")
    return [*BUILDS[language](), *(["--protobuf"] if encoding else [])]


@cache
def build_go() -> tuple[str, ...]:
    """Build the phone in Go, once per run of the tests."""
    program = str(servers.session().folder / "phone-go")
    # Without a look at the repository, which may be somebody else's.
    words = ["go", "build", "-buildvcs=false", "-o", program, "."]
    subprocess.run(words, cwd=CLIENTS / "go", check=True, timeout=BUILD_SECONDS)
    return (program,)


@cache
def build_java() -> tuple[str, ...]:
    """The same for the one in Java, in a copy, because Maven builds where the sources are."""
    folder = servers.session().folder / "phone-java"
    shutil.copytree(CLIENTS / "java", folder)
    goals = ["compile", "dependency:copy-dependencies", "-DoutputDirectory=target/lib"]
    subprocess.run(["mvn", "--quiet", "--batch-mode", *goals], cwd=folder, check=True, timeout=BUILD_SECONDS)
    return ("java", "-cp", f"{folder}/target/classes:{folder}/target/lib/*", "Phone")


BUILDS: dict[str, Callable[[], tuple[str, ...]]] = {"go": build_go, "java": build_java}


class SdkPhone:
    """One phone; ``events`` keeps everything that it ever said, in order."""

    def __init__(self, sdk: str, process: asyncio.subprocess.Process) -> None:
        self.sdk = sdk
        self.events: list[Event] = []
        self._process = process
        self._changed = asyncio.Condition()
        self._ids = itertools.count(1)
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, sdk: str) -> SdkPhone:
        tool = TOOLS.get(sdk.partition("-")[0])
        if tool and not shutil.which(tool):
            assert not os.environ.get("CI"), f"{tool} has to be installed"
            pytest.skip(f"{tool} is not installed, so there is nothing to run this SDK with")
        command = await asyncio.to_thread(built_command, sdk) if sdk not in COMMANDS else COMMANDS[sdk]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 22
        )
        return cls(sdk, process)

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            async with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()

    async def do(self, action: str, **fields: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": action, **fields}).encode() + b"\n")
        await self._process.stdin.drain()

    async def until(self, holds: Callable[[list[Event]], bool], what: str) -> None:
        """Wait until ``holds(events)``; fail, saying what was waited for, after the deadline."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: holds(self.events)), DEADLINE)
            except TimeoutError:
                raise AssertionError(f"{self.sdk}: no {what} among {self.events[-20:]}") from None

    async def connect(self, url: str, token: str) -> None:
        await self.do("connect", url=url, token=token)
        await self._until_connected(1)

    async def disconnect(self) -> None:
        before = self.count("disconnected")
        await self.do("disconnect")
        await self.until(lambda _: self.count("disconnected") > before, "disconnect")

    async def reconnect(self, url: str = "") -> None:
        before = self.count("connected")
        await self.do("reconnect", url=url)
        await self._until_connected(before + 1)

    async def _until_connected(self, times: int) -> None:
        await self.until(lambda _: self.count("connected") >= times, "connection")

    async def rpc(self, method: str, data: Any) -> Any:
        """Call a method; return its data. Raises AssertionError with the protocol's error."""
        id = next(self._ids)
        await self.do("rpc", id=id, method=method, data=data)
        reply = await self._reply(id)
        assert "error" not in reply, reply
        return reply["data"]

    async def ask(self, action: str, **fields: Any) -> Any:
        """Do something that has an answer; its data, or the error's code."""
        id = next(self._ids)
        await self.do(action, id=id, **fields)
        reply = await self._reply(id)
        return reply["error"]["code"] if "error" in reply else reply["data"]

    async def subscribe(self, channel: str, **options: Any) -> None:
        before = len(self.heard("subscribed", channel))
        await self.do("subscribe", channel=channel, options=options)
        await self.until(lambda _: len(self.heard("subscribed", channel)) > before, f"subscription to {channel}")

    def heard(self, event: str, channel: str) -> list[Event]:
        return [e for e in self.events if e["event"] == event and (e.get("channel") or "") == channel]

    def heard_numbers(self, channel: str) -> list[int]:
        """The numbers of the publications that are numbered."""
        return [e["data"]["number"] for e in self.heard("publication", channel)]

    async def _reply(self, id: int) -> Event:
        def found(events: list[Event]) -> bool:
            return any(e["event"] == "reply" and e["id"] == id for e in events)

        await self.until(found, f"reply {id}")
        return next(e for e in self.events if e["event"] == "reply" and e["id"] == id)

    def count(self, event: str) -> int:
        return sum(1 for e in self.events if e["event"] == event)

    def publications(self, channel: str, kind: str | None = None) -> list[Event]:
        """What arrived on a channel, hints left out unless asked for by kind."""
        return [
            e
            for e in self.events
            if e["event"] == "publication"
            and e["channel"] == channel
            and (e["data"].get("type") == kind if kind else e.get("offset"))
        ]

    def texts(self, channel: str) -> list[str]:
        return [e["data"]["message"]["text"] for e in self.publications(channel, "message.sent")]

    async def until_texts(self, channel: str, texts: list[str]) -> None:
        await self.until(lambda _: len(self.texts(channel)) >= len(texts), f"{len(texts)} texts in {channel}")
        assert self.texts(channel) == texts

    async def stop(self) -> None:
        if self._process.returncode is None:
            await self.do("exit")
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader
