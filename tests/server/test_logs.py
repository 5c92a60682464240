"""Logs: one line for each event, whoever logs it; a client's mistake is none."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from server.children import ROOT

PROGRAM = """
import logging
import structlog
from server import logs

logs.configure(level="INFO", as_json={as_json})
structlog.get_logger("web").info("web.listening", port=8000)
logging.getLogger("consumers").warning("connecting %s", "failed")
for status in (404, 500):
    logging.getLogger("django.request").warning("answered %s", status, extra={{"status_code": status}})
logging.getLogger("urllib3").debug("a body")
try:
    secret = "swordfish"
    raise ValueError("broken")
except ValueError:
    logging.getLogger("models").exception("a bug")
"""


def lines(*, as_json: bool) -> list[str]:
    """What a process prints that logs all sorts of things."""
    command = [sys.executable, "-c", PROGRAM.format(as_json=as_json)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(as_json=True)]


def test_every_line_is_an_event_with_time_level_and_logger(events: list[dict[str, Any]]) -> None:
    assert [event["event"] for event in events] == ["web.listening", "connecting failed", "answered 500", "a bug"]
    assert [event["level"] for event in events] == ["info", "warning", "warning", "error"]
    assert [event["logger"] for event in events] == ["web", "consumers", "django.request", "models"]
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert events[0]["port"] == 8000


def test_a_bug_comes_with_its_traceback_and_without_the_values(events: list[dict[str, Any]]) -> None:
    assert "ValueError: broken" in events[-1]["exception"]
    assert "swordfish" not in json.dumps(events)


def test_in_development_lines_are_for_people() -> None:
    found = lines(as_json=False)

    assert "web.listening" in found[0]
    assert "port=8000" in found[0]
    assert not any("404" in line or "a body" in line for line in found)
    assert "ValueError: broken" in found[-1]
    assert not any("swordfish" in line for line in found)
