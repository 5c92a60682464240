"""What every measurement needs: the C and Go programs, the load client's answer, and the CPU time of processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
SETTLE_SECONDS = 0.5
START_SECONDS = 30.0


@dataclass(frozen=True)
class Run:
    """What one run of the load client cost and gave; CPU in seconds of user and system time."""

    count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu: float
    database_cpu: float = 0.0

    @property
    def cpu_us(self) -> float:
        """Server CPU in µs for each thing counted."""
        return self.cpu / self.count * 1e6

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class Programs:
    """The compiled programs, in a folder that goes away with the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.load = self._compile("load")
        self.floor = self._compile("floor")
        self.peer_go = self._build_go()

    def _compile(self, name: str) -> Path:
        program = self._folder / name
        subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
        return program

    def _build_go(self) -> Path | None:
        if not shutil.which("go"):
            return None
        program = self._folder / "peer-go"
        subprocess.run(["go", "build", "-buildvcs=false", "-o", str(program), "."], cwd=HERE / "peer-go", check=True)
        return program


class Processes:
    """The CPU time and memory of some processes, children included."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]

    def _all(self) -> list[psutil.Process]:
        return [process for root in self._roots for process in (root, *root.children(recursive=True))]

    def cpu(self) -> float:
        total = 0.0
        for process in self._all():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def memory(self) -> int:
        """Resident bytes."""
        return sum(process.memory_info().rss for process in self._all())


def run_load(
    program: Path,
    server: Processes,
    *,
    port: int,
    path: str,
    connections: int,
    sends: int,
    in_flight: int = 1,
    payload: int = 200,
    mark: str,
    send: Sequence[str],
    init: Sequence[str] = (),
    echo: bool = False,
    database: Processes | None = None,
) -> Run:
    """Run the load client once, and take the servers' CPU between its START and its end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MARK": mark, "SEND_FILE": _lines(folder, "send", send)}
        if init:
            environment["INIT_FILE"] = _lines(folder, "init", init)
        if echo:
            environment["ECHO"] = "1"
        words = [str(program), str(port), path, str(connections), str(sends), str(in_flight), str(payload)]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout
            if client.stdout.readline().strip() != "START":
                raise RuntimeError(f"the load client did not start: {words}")
            before, database_before = server.cpu(), database.cpu() if database else 0.0
            answer = client.stdout.readline()
            cpu = server.cpu() - before
            database_cpu = database.cpu() - database_before if database else 0.0
        if client.returncode or not answer:
            raise RuntimeError(f"the load client failed: {words}")
    figures = dict(word.split("=") for word in answer.split())
    return Run(
        count=int(figures["count"]),
        seconds=float(figures["seconds"]),
        p50_ms=float(figures["p50_ms"]),
        p99_ms=float(figures["p99_ms"]),
        cpu=cpu,
        database_cpu=database_cpu,
    )


@dataclass(frozen=True)
class Held:
    """What connections cost that only connect: CPU for each in ms, memory in KB."""

    cpu_ms: float
    memory_kb: float


def hold(program: Path, server: Processes, *, port: int, path: str, connections: int, init: Sequence[str] = ()) -> Held:
    """Open connections, hold them for a moment, and take what they cost."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HOLD": "2"}
        if init:
            environment["INIT_FILE"] = _lines(folder, "init", init)
        words = [str(program), str(port), path, str(connections), "1", "1", "10"]
        cpu, memory = server.cpu(), server.memory()
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout
            if client.stdout.readline().strip() != "START":
                raise RuntimeError(f"the load client did not start: {words}")
            time.sleep(SETTLE_SECONDS)
            held = Held((server.cpu() - cpu) / connections * 1e3, (server.memory() - memory) / connections / 1024)
            client.wait()
    return held


def _lines(folder: str, name: str, lines: Sequence[str]) -> str:
    path = Path(folder) / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; raise RuntimeError after half a minute."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {START_SECONDS:.0f} s for {what}")
        time.sleep(0.05)


def accepts(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
