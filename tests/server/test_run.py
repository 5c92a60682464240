"""The supervisor: what it starts, what it says when it cannot, and that nothing outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.children import ROOT, end_all
from server.embedded import free_port

from .supervised import READY, Run, processes_in, surroundings, wait_until_empty

Start = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the runs of this file share, so that PostgreSQL is initialised once."""
    folder = tmp_path_factory.mktemp("run")
    yield folder
    end_all(folder / "roost")


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Start the supervisor of this checkout, with its data in ``place``; it is stopped when the test ends."""
    with ExitStack() as stack:

        def begin(*words: str, wait: bool = True, **environment: str) -> Run:
            command = [sys.executable, "-m", "server.run", "--folder", str(place / "roost"), *words]
            run = stack.enter_context(Run(command, place, environment={"PYTHONPATH": str(ROOT), **environment}))
            if wait:
                run.wait_for(READY)
            return run

        yield begin
    wait_until_empty(place)


def pid_of(place: Path, name: str) -> int:
    return int((place / "roost" / "processes" / f"{name}.pid").read_text().split()[0])


def complaint(place: Path, *words: str, **environment: str) -> str:
    """Start what cannot come up and return the one line that it says."""
    done = subprocess.run(
        [*words, sys.executable, "-m", "server.run", "--folder", str(place / "roost")],
        cwd=ROOT,
        env={**surroundings(place), "ROOST_PORT": str(free_port()), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_everything_comes_up_and_sigterm_leaves_nothing(start: Start, place: Path) -> None:
    run = start()

    assert run.get("/health/ready")[0] == 200
    assert f"http://127.0.0.1:{run.port}/" in run.output
    assert "alice" in run.output
    assert run.end(signal.SIGTERM) == 0
    assert processes_in(place) == {}
    assert run.output.endswith("Stopped.\n")


def test_ctrl_c_reaches_the_supervisor_alone_which_ends_all_in_order(start: Start, place: Path) -> None:
    run = start()

    # What a terminal does: the signal goes to every process of the foreground group.
    os.killpg(run.process.pid, signal.SIGINT)

    assert run.process.wait(40) == 0
    assert processes_in(place) == {}
    assert "Traceback" not in run.output
    assert "database system is shut down" in (place / "roost" / "postgres" / "log").read_text()


def test_nothing_outlives_a_supervisor_that_was_killed(start: Start, place: Path) -> None:
    run = start()
    assert len(processes_in(place)) >= 5

    run.end(signal.SIGKILL)

    wait_until_empty(place)
    again = start()
    assert again.get("/health/ready")[0] == 200


def test_what_a_killed_supervisor_and_guardian_left_is_ended_by_the_next_start(start: Start, place: Path) -> None:
    run = start()
    guardians = [pid for pid, command in processes_in(place).items() if "server.children" in command]
    left_alone = [pid_of(place, "web-1"), pid_of(place, "postgres")]
    for pid in guardians:
        os.kill(pid, signal.SIGKILL)
    run.end(signal.SIGKILL)
    assert all(pid in processes_in(place) for pid in left_alone)

    again = start()

    assert again.get("/health/ready")[0] == 200
    assert not any(pid in processes_in(place) for pid in left_alone)


def test_it_stops_when_the_process_that_started_it_is_killed(place: Path) -> None:
    # The shell stands for make, which waits in the same way.
    command = f"{sys.executable} -m server.run --follow-parent --folder {place / 'roost'}; true"
    run = Run(["/bin/sh", "-c", command], place, environment={"PYTHONPATH": str(ROOT)})
    run.wait_for(READY)

    run.end(signal.SIGKILL)

    wait_until_empty(place)


def test_what_crashes_is_started_again(start: Start, place: Path) -> None:
    run = start()

    for name, title in (("web-1", "web-1"), ("worker", "worker"), ("valkey", "Valkey"), ("postgres", "PostgreSQL")):
        pid = pid_of(place, name)
        os.kill(pid, signal.SIGKILL)
        run.wait_for(f"{title} ended with code -9; starting it again in 0.5 s.", seconds=120)
        deadline = time.monotonic() + 60
        while pid_of_or_none(place, name) in (None, pid) or run.status("/health/ready") != 200:
            assert time.monotonic() < deadline, run.output
            time.sleep(0.05)


def pid_of_or_none(place: Path, name: str) -> int | None:
    try:
        return pid_of(place, name)
    except (FileNotFoundError, IndexError):
        return None


def test_two_web_processes_share_the_port(start: Start, place: Path) -> None:
    run = start(ROOST_WEB_PROCESSES="2")
    pids = {pid_of(place, "web-1"), pid_of(place, "web-2")}

    deadline = time.monotonic() + 60
    while listeners(run.port) != pids:
        assert time.monotonic() < deadline, listeners(run.port)
        time.sleep(0.05)

    # One of them is enough to answer, whichever the kernel would have chosen.
    os.kill(pid_of(place, "web-2"), signal.SIGSTOP)
    os.kill(pid_of(place, "web-2"), signal.SIGKILL)
    run.wait_for("web-2 ended")
    assert run.get("/health/live")[0] == 200


def listeners(port: int) -> set[int]:
    """The processes that listen on a port, read from the kernel's table."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    inodes = {f"socket:[{row[9]}]" for row in fields if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in inodes:
                found.add(int(descriptor.parts[2]))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def test_commands_beside_a_run_find_its_servers(start: Start, place: Path) -> None:
    start()

    told = dict(line.split("=", 1) for line in (place / "roost" / "env").read_text().splitlines())

    assert set(told) == {"DATABASE_URL", "REDIS_URL"}
    assert (place / "roost" / "env").stat().st_mode & 0o777 == 0o600


def test_a_second_run_in_the_same_folder_is_refused(start: Start, place: Path) -> None:
    start()

    assert complaint(place) == f"roost: Roost is running in {place / 'roost'} already: stop it first."


def test_a_taken_port_is_told(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        said = complaint(place, ROOST_PORT=str(port))

    assert said.startswith(f"roost: Port {port} is taken by another program: stop that one, or choose a port")


def test_a_host_that_is_not_ours_is_told(place: Path) -> None:
    assert "change ROOST_HOST or ROOST_PORT" in complaint(place, ROOST_HOST="192.0.2.1")
    assert "is no address" in complaint(place, ROOST_HOST="not an address")


def test_a_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # Root may write anywhere, unless it is somebody else inside of a user namespace.
    words = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []

    said = complaint(tmp_path, *words)

    assert said.startswith(f"roost: {tmp_path / 'roost'} is not writable (Permission denied): give it to the user")
    tmp_path.chmod(0o700)


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    said = complaint(tmp_path, DATABASE_URL="postgres://roost@127.0.0.1:1/roost")

    assert said.startswith("roost: PostgreSQL does not let us in (")
    assert said.endswith("check DATABASE_URL, or unset it.")


def test_malformed_settings_are_all_told_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.run", "--folder", str(tmp_path / "roost")],
        cwd=ROOT,
        env={**surroundings(tmp_path), "ROOST_PORT": "many", "ROOST_WEB_PROCESSES": "0"},
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert "ROOST_PORT" in done.stderr
    assert "ROOST_WEB_PROCESSES" in done.stderr
    assert "Traceback" not in done.stderr


def test_unsafe_defaults_do_not_start_in_production(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.run", "--folder", str(tmp_path / "roost")],
        cwd=ROOT,
        env={**surroundings(tmp_path), "ROOST_ENV": "production"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode != 0
    assert "ROOST_SECRET_KEY" in done.stderr
    assert "ROOST_ALLOWED_HOSTS" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_in(tmp_path) == {}
