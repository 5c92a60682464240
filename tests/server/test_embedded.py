"""The embedded servers: real, durable, private, and gone when nobody needs them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

import psycopg
import pytest
import redis

from server import embedded
from server.children import ROOT, Child, Ending, Guardian, await_guardian, end_all
from server.embedded import Identity, Postgres, StartError, Valkey

# Starts both servers in a folder as a supervisor does, says so, and then only waits: something to kill.
SUPERVISOR = """
import sys, time
from pathlib import Path
from server.children import Guardian
from server.embedded import Postgres, Valkey
folder = Path(sys.argv[1])
guardian = Guardian(folder).start() if sys.argv[2] == "guarded" else None
postgres, valkey = Postgres(folder, folder / "postgres"), Valkey(folder, folder / "valkey")
postgres.start(), valkey.start()
print(postgres.child.pid, valkey.child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of which nothing survives the test."""
    yield tmp_path
    end_all(tmp_path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids: list[int], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"{alive} live on"
        time.sleep(0.02)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def supervise(folder: Path, how: str) -> tuple[subprocess.Popen[str], list[int]]:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout
    return supervisor, [int(word) for word in supervisor.stdout.readline().split()]


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()


def test_postgres_keeps_what_was_acknowledged_through_a_power_failure(folder: Path) -> None:
    postgres = Postgres(folder, folder / "postgres", {"fsync": "off"})
    postgres.start()

    with psycopg.connect(postgres.url) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("fsync", "full_page_writes", "synchronous_commit")
        ]

    assert shown == [("on",)] * 3
    postgres.stop()


def test_data_and_addresses_stay_between_starts(folder: Path) -> None:
    first, second = Postgres(folder, folder / "postgres"), Postgres(folder, folder / "postgres")
    first.start()
    with psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'Straße' AS word")
    first.stop()

    second.start()

    assert second.url == first.url
    with psycopg.connect(second.url) as connection:
        assert connection.execute("SELECT upper(word) FROM kept").fetchone() == ("STRAßE",)
    second.stop()


def test_a_stranger_on_this_machine_is_let_in_nowhere(folder: Path) -> None:
    postgres, valkey = Postgres(folder, folder / "postgres"), Valkey(folder, folder / "valkey")
    postgres.start()
    valkey.start()

    without_password = postgres.url.replace(postgres.url.split("@")[0], "postgres://roost")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(without_password)
    stranger = redis.Redis.from_url(f"redis://{valkey.url.split('@')[1]}")
    with pytest.raises(redis.AuthenticationError):
        stranger.ping()

    stranger.close()
    private = [folder / "postgres", folder / "postgres" / "data", folder / "valkey"]
    assert [permissions(path) for path in private] == [0o700] * 3
    secret = ["postgres/password", "postgres/log", "valkey/password", "valkey/valkey.conf"]
    assert [permissions(folder / path) for path in secret] == [0o600] * 4
    # Passwords are not among the words that everybody sees in the list of processes.
    for server in (postgres, valkey):
        assert server.child
        words = Path(f"/proc/{server.child.pid}/cmdline").read_text()
        assert (folder / server.name / "password").read_text() not in words
    valkey.stop()
    postgres.stop()


def test_nothing_outside_the_folder_is_changed(folder: Path) -> None:
    above = [folder, *folder.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in above]

    postgres = Postgres(folder, folder / "postgres")
    postgres.start()
    postgres.stop()

    assert [(path.stat().st_mode, path.stat().st_uid) for path in above] == before
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.geteuid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to turn to")
def test_root_without_user_namespaces_runs_postgres_as_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    able = embedded._can_run
    monkeypatch.setattr(
        embedded, "_can_run", lambda command, user=None: command[0] != "unshare" and able(command, user=user)
    )
    # The folders of pytest are for root alone; this user must reach its own.
    for path in (folder, *folder.parents):
        if path.is_relative_to(gettempdir()) and path != Path(gettempdir()):
            path.chmod(0o711)
    postgres = Postgres(folder, folder / "postgres")

    postgres.start()

    assert postgres.child
    status = Path(f"/proc/{postgres.child.pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert permissions(folder / "postgres" / "data") == 0o700
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    postgres.stop()


def test_root_that_can_turn_to_nobody_is_told_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "_can_run", lambda command, user=None: False)

    with pytest.raises(StartError, match="run as an ordinary user, or set DATABASE_URL"):
        Postgres(folder, folder / "postgres").start()


def test_initialising_that_was_cut_off_begins_anew(folder: Path) -> None:
    half = folder / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    postgres = Postgres(folder, folder / "postgres")

    postgres.start()

    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    postgres.stop()


def test_data_of_another_version_is_refused_in_one_line(folder: Path) -> None:
    postgres = Postgres(folder, folder / "postgres")
    postgres.start()
    postgres.stop()
    (folder / "postgres" / "data" / "PG_VERSION").write_text("17\n")

    with pytest.raises(StartError, match=r"^The data in .* is of PostgreSQL 17, the installed one is 18: .*$"):
        Postgres(folder, folder / "postgres").start()


def test_a_lost_password_is_told_in_one_line(folder: Path) -> None:
    postgres = Postgres(folder, folder / "postgres")
    postgres.start()
    postgres.stop()
    (folder / "postgres" / "password").write_text("another")

    with pytest.raises(StartError, match=r"^PostgreSQL refuses the password in .*: put back .*$"):
        Postgres(folder, folder / "postgres").start()


def test_a_server_that_does_not_come_up_says_why_in_one_line(folder: Path) -> None:
    postgres = Postgres(folder, folder / "postgres", {"shared_buffers": "much"})

    with pytest.raises(StartError, match=r"^PostgreSQL stopped while starting: .*shared_buffers.* \(all of it: .*\)$"):
        postgres.start()


def test_a_taken_port_is_exchanged_for_a_free_one(folder: Path) -> None:
    first, second = Valkey(folder / "a", folder / "a"), Valkey(folder / "b", folder / "b")
    first.start()
    (folder / "b").mkdir()
    (folder / "b" / "port").write_text((folder / "a" / "port").read_text())

    second.start()

    assert second.url.split("@")[1] != first.url.split("@")[1]
    first.stop()
    second.stop()


def test_restarting_immediately_breaks_connections_and_comes_back_at_the_same_address(folder: Path) -> None:
    postgres = Postgres(folder, folder / "postgres")
    postgres.start()
    url = postgres.url
    connection = psycopg.connect(url)

    postgres.restart_immediately()

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    assert postgres.url == url
    with psycopg.connect(url) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
    postgres.stop()


def test_nothing_outlives_a_supervisor_that_was_killed(folder: Path) -> None:
    supervisor, pids = supervise(folder, "guarded")
    assert all(is_alive(pid) for pid in pids)

    kill(supervisor)

    wait_for_end(pids)
    await_guardian(folder, seconds=10)
    # It was an orderly stop, not a crash to recover from.
    assert "database system is shut down" in (folder / "postgres" / "log").read_text()


def test_the_next_start_ends_what_a_supervisor_and_its_guardian_left(folder: Path) -> None:
    supervisor, pids = supervise(folder, "alone")
    kill(supervisor)
    assert all(is_alive(pid) for pid in pids)

    end_all(folder)

    wait_for_end(pids, seconds=5)
    postgres = Postgres(folder, folder / "postgres")
    postgres.start()
    postgres.stop()


def test_processes_end_in_their_turns(folder: Path) -> None:
    order = folder / "order"
    script = f"trap 'echo $0 >> {order}; exit' TERM; while :; do sleep 0.05; done"
    children = [
        Child(folder, name, ["/bin/sh", "-c", script, name], ending=Ending(turn=turn))
        for name, turn in (("server", 9), ("web", 1))
    ]
    for child in children:
        child.start()
    wait_until_trapped(children)

    end_all(folder)

    assert order.read_text().split() == ["web", "server"]
    assert [child.wait() for child in children] == [0, 0]


def test_a_process_that_ignores_the_request_is_killed_when_its_patience_is_over(folder: Path) -> None:
    child = Child(
        folder,
        "deaf",
        ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"],
        ending=Ending(turn=1, patience_seconds=0.2),
    ).start()
    wait_until_trapped([child])

    end_all(folder)

    assert child.wait() == -signal.SIGKILL


def test_a_stranger_with_the_number_of_a_dead_process_is_left_alone(folder: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    (folder / "processes").mkdir()
    (folder / "processes" / "web-1.pid").write_text(f"{stranger.pid} 1 {int(signal.SIGKILL)} 1.0")

    end_all(folder)

    assert stranger.poll() is None
    assert list((folder / "processes").iterdir()) == []
    stranger.kill()
    stranger.wait()


def test_a_folder_has_one_guardian(folder: Path) -> None:
    guardian = Guardian(folder).start()

    with pytest.raises(TimeoutError):
        Guardian(folder).start()

    guardian.stop()
    await_guardian(folder, seconds=0)


def test_identity_of_an_ordinary_user_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)

    assert embedded._identity(Path("/anywhere"), tmp_path) == Identity()


def wait_until_trapped(children: list[Child]) -> None:
    """Wait until every shell has set its trap: SIGTERM is then caught or ignored."""
    deadline = time.monotonic() + 10
    for child in children:
        while not _handles_term(child.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _handles_term(pid: int) -> bool:
    fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    handled = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
    return bool(handled & (1 << (signal.SIGTERM - 1)))
