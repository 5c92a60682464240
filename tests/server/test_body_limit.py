"""Bodies beyond the limit are refused, whether they say how long they are or not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from asgiref.testing import ApplicationCommunicator

from server.body_limit import BodyLimit


async def counts(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    length, more = 0, True
    while more:
        event = await receive()
        length, more = length + len(event["body"]), event["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % length})


async def post(*parts: bytes, declared: str | None = None) -> tuple[int, bytes]:
    headers = [(b"content-length", declared.encode())] if declared else []
    communicator = ApplicationCommunicator(BodyLimit(counts, most=100), {"type": "http", "headers": headers})
    for number, part in enumerate(parts, 1):
        await communicator.send_input({"type": "http.request", "body": part, "more_body": number < len(parts)})
    start, body = await communicator.receive_output(), await communicator.receive_output()
    await communicator.wait()
    return start["status"], body["body"]


@pytest.mark.parametrize("declared", ["100", None])
async def test_what_fits_passes(declared: str | None) -> None:
    assert await post(b"x" * 60, b"x" * 40, declared=declared) == (200, b"100")


@pytest.mark.parametrize("declared", ["101", None])
async def test_what_does_not_fit_is_a_problem_with_a_code(declared: str | None) -> None:
    status, body = await post(b"x" * 60, b"x" * 41, declared=declared)

    problem = msgspec.json.decode(body)
    assert (status, problem["status"], problem["code"]) == (413, 413, "body_too_large")
