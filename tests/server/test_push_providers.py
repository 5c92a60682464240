"""Providers of the deployment's own: the example of docs/push.md works, and what does not fit is told at start."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from push.providers.base import Outcome, Provider, Verdict
from push.providers.memory import MemoryProvider
from server import push_providers
from server.env import BadEnvironment, Env, load
from server.push_providers import BadProvider
from tests.push.pushes import make_push

PAGE = Path(__file__).resolve().parents[2] / "docs" / "push.md"

MakeModule = Callable[[str], str]


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """``make_module(source)`` returns the name of a module with that source."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"made_for_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return make


def made(path: str) -> Provider:
    (provider,) = push_providers.load([path], taken=["console", "fcm"])
    return provider


# --- the example


class Gateway:
    """What the documented example talks to; answers with each of ``statuses``, then with 200."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    thread = threading.Thread(target=gateway.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield gateway
    gateway.server.shutdown()
    gateway.server.server_close()
    thread.join()


def test_the_documented_example_carries_pushes(
    gateway: Gateway, make_module: MakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("GATEWAY_URL", gateway.url)
    gateway.statuses = [200, 410, 503]
    provider = made(f"{make_module(example)}:Gateway")
    push = make_push()

    async def deliver() -> list[Outcome]:
        outcomes = [await provider.deliver(push) for _ in range(3)]
        await provider.close()
        return outcomes

    outcomes = asyncio.run(deliver())

    verdicts = [outcome.verdict for outcome in outcomes]
    assert verdicts == [Verdict.SENT, Verdict.TARGET_GONE, Verdict.RETRY]
    assert gateway.received[0]["to"] == "target-of-bea"
    assert gateway.received[0]["data"] == push.data


def test_it_is_among_the_worker_s_providers(make_module: MakeModule, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.management.commands import worker

    source = "from push.providers.memory import MemoryProvider\ndef make():\n    return MemoryProvider('pigeons')\n"
    env = Env(_env_file=None, push_provider="pigeons", push_providers=f"{make_module(source)}:make")

    assert [provider.name for provider in worker._providers(env)] == ["console", "pigeons"]


# --- what does not fit

PROVIDER = """
class Pigeons:
    name = "pigeons"
    concurrency = 4
    async def deliver(self, push): ...
    async def close(self): ...
"""


def test_a_class_is_a_factory(make_module: MakeModule) -> None:
    assert made(f"{make_module(PROVIDER)}:Pigeons").name == "pigeons"


@pytest.mark.parametrize(
    ("was", "becomes", "problem"),
    [
        ('"pigeons"', '"Pigeons!"', "its name is not one of up to 20 small letters"),
        ('"pigeons"', "7", "its name is not one of up to 20 small letters"),
        ('"pigeons"', '"' + "p" * 21 + '"', "its name is not one of up to 20 small letters"),
        ('"pigeons"', '"fcm"', "there is another one of the name 'fcm'"),
        ("concurrency = 4", "concurrency = 0", "its concurrency is no number above zero"),
        ("concurrency = 4", "pass", "its concurrency is no number above zero"),
        ("concurrency = 4", "concurrency = True", "its concurrency is no number above zero"),
        ("concurrency = 4", "concurrency = 4; per_minute = -1", "its per_minute is no number above zero"),
        ("async def deliver", "def deliver", r"it has no coroutine deliver\(\)"),
        ("async def close", "async def shut", r"it has no coroutine close\(\)"),
        ("class Pigeons:", "raise RuntimeError('no pigeons')\nclass Pigeons:", "RuntimeError: no pigeons"),
        ("class Pigeons:", "class Doves:", "AttributeError"),
        ("class Pigeons:", "class Pigeons:\n    def __init__(self, loft): ...", "TypeError"),
    ],
)
def test_what_is_no_provider_is_refused(make_module: MakeModule, was: str, becomes: str, problem: str) -> None:
    module = make_module(PROVIDER.replace(was, becomes))

    with pytest.raises(BadProvider, match=problem) as refused:
        made(f"{module}:Pigeons")

    assert str(refused.value).startswith("ROOST_PUSH_PROVIDERS: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["pigeons", "pigeons:", ":Pigeons", "there.is.no.such.module:Pigeons"])
def test_what_names_no_factory_is_refused(path: str) -> None:
    with pytest.raises(BadProvider, match="ROOST_PUSH_PROVIDERS"):
        made(path)


def test_two_of_one_name_are_refused(make_module: MakeModule) -> None:
    path = f"{make_module(PROVIDER)}:Pigeons"

    with pytest.raises(BadProvider, match="another one of the name 'pigeons'"):
        list(push_providers.load([path, path], taken=[]))


def test_the_worker_says_in_one_line_what_does_not_fit(settings: Any) -> None:
    settings.ROOST = Env(_env_file=None, push_providers="no.such:thing")

    with pytest.raises(CommandError, match=r"^ROOST_PUSH_PROVIDERS: no\.such:thing fails: ModuleNotFoundError.*$"):
        call_command("worker")


def test_the_default_has_to_be_one_of_them(make_module: MakeModule, settings: Any) -> None:
    path = f"{make_module(PROVIDER)}:Pigeons"
    settings.ROOST = Env(_env_file=None, push_provider="doves", push_providers=path)

    with pytest.raises(CommandError, match="ROOST_PUSH_PROVIDER is doves, and there are console, pigeons"):
        call_command("worker")


def test_without_providers_of_one_s_own_the_default_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_PUSH_PROVIDER", "pigeons")

    with pytest.raises(BadEnvironment, match="ROOST_PUSH_PROVIDER: one of apns, console, fcm, memory, webpush"):
        load.__wrapped__()


def test_ours_fit_too() -> None:
    assert push_providers._problem(MemoryProvider(), set()) is None
