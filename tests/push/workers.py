"""Real worker processes on the test's database that push through the local FCM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from django.conf import settings

from tests.fcm import Fcm
from tests.push.scene import states
from tests.servers import ServerProcess, session


class Workers:
    """Those that a test has started; all of them end with it."""

    def __init__(self, fcm: Fcm, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "DATABASE_URL": session().database_url(settings.DATABASES["default"]["NAME"]),
            "ROOST_PUSH_PROVIDER": "fcm",
            "ROOST_FCM_CREDENTIALS": fcm.credentials,
            "ROOST_FCM_BASE_URL": fcm.url,
            "ROOST_PUSH_GRACE_SECONDS": "0",
            "ROOST_LOG_LEVEL": "DEBUG",
            "PYTHONUNBUFFERED": "1",
        }
        self.all: list[ServerProcess] = []

    def start(self, options: str = "", **more: str) -> ServerProcess:
        worker = ServerProcess(
            f"worker-{len(self.all)}", f"worker {options}", {**self._environment, **more}, self._folder
        )
        self.all.append(worker)
        return worker.start()

    def await_that(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = monotonic() + seconds
        while not condition():
            logs = "\n".join(worker.log[-4_000:] for worker in self.all)
            assert monotonic() < deadline, f"not within {seconds} s: {states()[:20]}\n{logs}"
            sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.all:
            with suppress(ProcessLookupError):
                worker.signal(signal.SIGCONT)
            worker.stop()
