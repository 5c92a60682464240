"""Real servers for tests: the session's PostgreSQL and Valkey, and whole deployments of web and worker processes.

A story starts a ``Deployment`` (fixture ``deploy``), kills and restarts its parts, and talks to it as any client does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from server.children import ROOT, Child, Ending, Guardian, end_all
from server.embedded import Postgres, Valkey, free_port

READY_SECONDS = 60.0
LOOK_SECONDS = 0.05
MANAGE = ("manage.py",)


class Session:
    """
    What one run of the tests has: a folder, a guardian that cleans up even after ``kill -9``, PostgreSQL and Valkey.

    ``DATABASE_URL`` and ``REDIS_URL`` of the environment choose other servers. Nothing but them is taken from outside:
    a ``.env`` that a developer keeps must never point the tests at real data.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="roost-tests-"))
        self.numbers = count(1)
        self._template: str | None = None
        self._started: list[Postgres | Valkey] = []
        self._guardian = Guardian(self.folder).start()

    def start(self) -> None:
        """Start what is not given, and tell Django's settings by the environment."""
        os.environ["ROOST_WITHOUT_FILES"] = "yes"
        if not os.environ.get("DATABASE_URL"):
            os.environ["DATABASE_URL"] = self._run(Postgres(self.folder, self.folder / "postgres"))
        if not os.environ.get("REDIS_URL"):
            os.environ["REDIS_URL"] = self._run(Valkey(self.folder, self.folder / "valkey"))

    def _run(self, server: Postgres | Valkey) -> str:
        self._started.append(server)
        server.start()
        return server.url

    def stop(self) -> None:
        if self._template:
            self.drop_database(self._template)
        for server in reversed(self._started):
            server.stop()
        # What a failing test left behind.
        end_all(self.folder)
        self._guardian.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """Make a migrated, empty database and return its name."""
        if self._template is None:
            template = f"roost_template_{uuid4().hex[:12]}"
            self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template)))
            migrate(self.database_url(template))
            self._template = template
        name = f"roost_flow_{uuid4().hex[:12]}"
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._execute(copy.format(sql.Identifier(name), sql.Identifier(self._template)))
        return name

    def drop_database(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def database_url(self, name: str) -> str:
        return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.database_url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


_session: Session | None = None


def session() -> Session:
    """Return what this run has; made by ``conftest.py`` before Django's settings are read."""
    global _session
    if _session is None:
        _session = Session()
    return _session


def migrate(database_url: str) -> None:
    """Run the migrations as an operator does, in a process of its own."""
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    environment = {**os.environ, "DATABASE_URL": database_url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class ServerProcess:
    """A process of ours, ``manage.py serve`` or ``manage.py worker``, that a test may kill and start again."""

    def __init__(
        self,
        name: str,
        command: str,
        environment: Mapping[str, str],
        folder: Path,
        port: int = 0,
        *,
        program: Sequence[str] = MANAGE,
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.websocket_url = f"ws://127.0.0.1:{port}/connection/websocket"
        self._log = folder / f"{name}.log"
        self._child = Child(
            session().folder,
            f"{folder.name}-{name}",
            [sys.executable, *program, *command.split()],
            ending=Ending(turn=1),
            env=environment,
            log=self._log,
        )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        return self._child.is_alive

    def start(self) -> Self:
        self._child.start()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> Self:
        """Wait until ``/health/ready`` says yes; a worker has no door to knock at and is taken at its word."""
        deadline = time.monotonic() + seconds
        while self.port and not self._is_ready():
            assert self.is_alive, f"exited with {self._child.exit_code}:\n{self.log}"
            assert time.monotonic() < deadline, f"not ready after {seconds} s:\n{self.log}"
            time.sleep(LOOK_SECONDS)
        return self

    def kill(self) -> None:
        """``kill -9``."""
        self._child.kill()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self._child.stop()

    def wait(self, seconds: float = READY_SECONDS) -> int:
        """Wait for its end, and return the exit code; a second SIGTERM may meet a process that is just leaving."""
        return self._child.wait(seconds)

    def restart(self) -> Self:
        """Stop it if it runs, start it, and wait until it is ready."""
        if self.is_alive:
            self.stop()
        return self.start().wait_ready()

    def signal(self, number: signal.Signals) -> None:
        self._child.signal(number)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Deployment:
    """
    Web and worker processes, each web process on a port of its own, that share one database and one Valkey.

    The database is new and empty. Valkey is its own, so that a test may stop it; PostgreSQL is the session's unless
    ``own_postgres``. ``environment`` is added to what every process gets.
    """

    def __init__(
        self,
        *,
        webs: int = 1,
        workers: int = 0,
        own_postgres: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._session = session()
        self.folder = self._session.folder / f"deployment-{next(self._session.numbers)}"
        self.folder.mkdir()
        self.valkey = Valkey(self.folder, self.folder / "valkey")
        self.postgres = Postgres(self.folder, self.folder / "postgres") if own_postgres else None
        self.database = ""
        self.database_url = ""
        self.webs: list[ServerProcess] = []
        self.workers: list[ServerProcess] = []
        self._counts = (webs, workers)
        self._environment = dict(environment or {})

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this deployment, or a ``manage.py`` command beside it, needs to be told."""
        return {
            **os.environ,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url,
            "ROOST_HOST": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }

    def start(self) -> Self:
        self.valkey.start()
        if self.postgres:
            self.postgres.start()
            self.database_url = self.postgres.url
            migrate(self.database_url)
        else:
            self.database = self._session.new_database()
            self.database_url = self._session.database_url(self.database)
        webs, workers = self._counts
        for _ in range(webs):
            self.add_web()
        for _ in range(workers):
            self.add_worker()
        for process in self.processes:
            process.wait_ready()
        return self

    @property
    def processes(self) -> list[ServerProcess]:
        return [*self.webs, *self.workers]

    def add_web(self, environment: Mapping[str, str] | None = None) -> ServerProcess:
        """Start one more web process; the caller waits until it is ready."""
        port = free_port()
        told = {**self.environment, "ROOST_PORT": str(port), **(environment or {})}
        web = ServerProcess(f"web-{len(self.webs)}", "serve", told, self.folder, port)
        self.webs.append(web)
        return web.start()

    def add_worker(
        self, environment: Mapping[str, str] | None = None, *, program: Sequence[str] = MANAGE
    ) -> ServerProcess:
        told = {**self.environment, **(environment or {})}
        worker = ServerProcess(f"worker-{len(self.workers)}", "worker", told, self.folder, program=program)
        self.workers.append(worker)
        return worker.start()

    def manage(self, *words: str) -> str:
        """Run a ``manage.py`` command in this deployment and return what it prints."""
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection of our own to its database, to look at the truth."""
        return psycopg.connect(self.database_url, autocommit=True)

    def stop(self) -> None:
        for process in self.processes:
            # A stopped process would sit out its whole patience.
            process.signal(signal.SIGCONT)
            process.stop()
        if self.valkey.child:
            self.valkey.child.signal(signal.SIGCONT)
        self.valkey.stop()
        if self.postgres:
            self.postgres.stop()
        elif self.database:
            self._session.drop_database(self.database)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
