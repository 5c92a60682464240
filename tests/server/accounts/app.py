"""A phone app, as far as accounts go: it signs up, reads its mail, keeps its tokens. And the process it talks to."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.core import mail
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient

from server import wiring

PASSWORD = "correct horse battery"


class App:
    """One installed app; ``meta`` of answers is remembered as an app would."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, **device: str) -> None:
        self._client = AsyncClient()
        self._device = device
        self.session_token = ""
        self.access_token = ""
        self.refresh_token = ""

    def call(self, method: str, path: str, /, **body: Any) -> HttpResponse:
        """Call allauth's API, with what the app holds."""
        return self.send(method, f"/_allauth/app/v1/{path}", **body)

    def api(self, method: str, path: str, /, **body: Any) -> HttpResponse:
        """Call ours."""
        return self.send(method, f"/v1/{path}", **body)

    def send(self, method: str, path: str, /, **body: Any) -> HttpResponse:
        headers = {"X-Roost-Device": json.dumps(self._device)}
        if self.session_token:
            headers["X-Session-Token"] = self.session_token
        if self.access_token:
            headers["Authorization"] = f"Bearer {self.access_token}"
        answer = self._ask(method, path, body, headers)
        self._keep(answer)
        return answer

    def _ask(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> HttpResponse:
        call = self._client.generic(method, path, json.dumps(body), "application/json", headers=headers)
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(30)

    def sign_up(self, email: str, password: str = PASSWORD, name: str = "Alice") -> HttpResponse:
        """Sign up and enter the code."""
        assert self.call("POST", "auth/signup", email=email, password=password, name=name).status_code == 401
        return self.call("POST", "auth/email/verify", key=code())

    def log_in(self, email: str, password: str = PASSWORD) -> HttpResponse:
        return self.call("POST", "auth/login", email=email, password=password)

    def refresh(self, token: str = "") -> HttpResponse:
        """Exchange the refresh token, or another."""
        answer = self._ask("POST", "/v1/auth/token/refresh", {"refresh_token": token or self.refresh_token}, {})
        if answer.status_code == 200:
            self.access_token, self.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
        return answer

    def is_let_in(self) -> bool:
        """Whether the API knows us."""
        return self.api("GET", "me").status_code == 200

    def _keep(self, answer: HttpResponse) -> None:
        if answer.headers.get("Content-Type") != "application/json":
            return
        meta = json.loads(answer.content).get("meta") or {}
        self.session_token = meta.get("session_token", self.session_token)
        if "access_token" in meta:
            self.access_token, self.refresh_token, self.session_token = meta["access_token"], meta["refresh_token"], ""


@contextmanager
def process() -> Iterator[None]:
    """One event loop with the engine, which goes on between the requests of apps, as in ``manage.py serve``."""
    App.loop = loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    engine = wiring.build_engine()
    try:
        asyncio.run_coroutine_threadsafe(engine.start(), loop).result(10)
        yield
        asyncio.run_coroutine_threadsafe(engine.stop(), loop).result(10)
        # Django's test client leaves open what a server closes after each request.
        asyncio.run_coroutine_threadsafe(sync_to_async(connections.close_all)(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def code() -> str:
    """The code in the newest mail."""
    found = re.search(r"^\s*([A-Z0-9]{3,}(?:-[A-Z0-9]{3,})*)\s*$", str(mail.outbox[-1].body), re.MULTILINE)
    assert found, mail.outbox[-1].body
    return found[1]
