"""RFC 6455 on our picows lane: Autobahn's cases, run by ``kosoku`` against an echo application in a real process."""

from __future__ import annotations

import kosoku

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
