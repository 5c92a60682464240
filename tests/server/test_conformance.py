"""
RFC 6455 and RFC 7692 on our picows lane: Autobahn's cases, run by ``kosoku`` against an echo application in a real
process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import kosoku
import pytest
from kosoku import _caseindex

from .sockets import PATH, EchoProcess

GROUPS = ["1", "2", "3", "4", "5", "6", "7", "10"]
# picows parses one frame ahead: an error in frame n + 1 closes before the answer to frame n is sent.
LEFT_OUT = ["7.1.2"]
CASES = 246


async def test_autobahn_cases_pass() -> None:
    with EchoProcess() as process:
        results = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{process.port}{PATH}",
            [f"{group}.*" for group in GROUPS],
            exclude_cases=LEFT_OUT,
            concurrency=4,
        )

    # A failing case raises; what is left to see is that all of them ran.
    assert {result.case_id.split(".")[0] for result in results} == set(GROUPS)
    assert len(results) == CASES


COMPRESSION = ["12", "13"]
COMPRESSION_CASES = 216
# The cases send messages of 128 KB.
LARGEST = 256 * 1024
# How often each case sends a piece of its file; 1,000 as they are written, which takes four minutes and shows no more.
MESSAGES = 100


# The cases leave their files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_autobahn_cases_of_compression_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in _cases_of_compression():
        monkeypatch.setattr(case, "COUNT", MESSAGES)
        monkeypatch.setattr(case, "onMessage", _with_bytes(case.onMessage))
    with EchoProcess(compress_websockets=True, max_frame_bytes=LARGEST) as process:
        results = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{process.port}{PATH}", [f"{group}.*" for group in COMPRESSION], concurrency=4
        )

    # Where nothing is agreed the cases count as unimplemented, which is no failure.
    assert {str(result.behavior) for result in results} == {"Behavior.OK"}
    assert len(results) == COMPRESSION_CASES


def _cases_of_compression() -> list[Any]:
    _caseindex.initialize_shims()
    cases = importlib.import_module("case12_x_x")
    return [*cases.Case12_X_X, *cases.Case13_X_X]


def _with_bytes(on_message: Callable[[Any, bytes, bool], None]) -> Callable[[Any, str | bytes, bool], None]:
    """These cases want bytes; what came uncompressed, as is any server's right, kosoku gives them as a string."""

    def take(case: Any, message: str | bytes, binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(case, message, binary)

    return take
