"""What every measurement needs: the C and Go programs, the load client's answer, and the CPU time of processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from .said import PAYLOAD_BYTES, Said

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
        command = ["gcc", "-O2", "-o", str(program), str(HERE / f"{name}.c")]
        # Only compressed messages need zlib to be read.
        if subprocess.run([*command, "-lz"], stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run([*command, "-DWITHOUT_ZLIB"], check=True)
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


@dataclass(frozen=True)
class Held:
    """What connections cost: CPU for each in ms and memory in KB; being idle, for all of them, the share of a core."""

    cpu_ms: float
    memory_kb: float
    idle_cpu: float


class LoadClient:
    """Runs the load client; what each option means stands at the head of ``load.c``."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(
        self,
        server: Processes,
        said: Said,
        *,
        port: int,
        path: str,
        connections: int,
        sends: int = 1,
        in_flight: int = 1,
        database: Processes | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Run it once, and take the servers' CPU between its START and its end."""
        words = [str(port), path, str(connections), str(sends), str(in_flight), str(PAYLOAD_BYTES)]
        with self._started(words, said, environment or {}) as client:
            before, database_before = server.cpu(), database.cpu() if database else 0.0
            assert client.stdout
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

    def hold(
        self,
        server: Processes,
        said: Said,
        *,
        port: int,
        path: str,
        connections: int,
        idle_seconds: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> Held:
        """Open connections and take what they cost; with ``idle_seconds``, what holding them costs from then on."""
        told = {"HOLD": str(idle_seconds + 2), **(environment or {})}
        cpu, memory = server.cpu(), server.memory()
        with self._started([str(port), path, str(connections), "1", "1", "10"], said, told) as client:
            time.sleep(SETTLE_SECONDS)
            opened = server.cpu()
            memory = server.memory() - memory
            time.sleep(idle_seconds)
            idle_cpu = (server.cpu() - opened) / idle_seconds if idle_seconds else 0.0
            client.wait()
        return Held((opened - cpu) / connections * 1e3, memory / connections / 1024, idle_cpu)

    @contextmanager
    def _started(
        self, words: Sequence[str], said: Said, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[str]]:
        """Start it, and wait until it says START."""
        with tempfile.TemporaryDirectory() as folder:
            told = {**os.environ, "MARK": said.mark, **environment}
            if said.send:
                told["SEND_FILE"] = _lines(folder, "send", said.send)
            if said.init:
                told["INIT_FILE"] = _lines(folder, "init", said.init)
            command = [str(self._program), *words]
            with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True) as client:
                assert client.stdout
                if client.stdout.readline().strip() != "START":
                    raise RuntimeError(f"the load client did not start: {words}")
                yield client


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
