"""The deployment files: valid, complete, and every command in them does what it should when it is run by hand."""

from __future__ import annotations

import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.children import ROOT, Child, Ending
from server.embedded import free_port
from server.env import Env
from tests import servers
from tests.servers import Deployment

from .supervised import upgrade

SERVICES = {"caddy", "web-1", "web-2", "worker", "migrate", "postgres", "valkey"}
OURS = {"web-1", "web-2", "worker", "migrate"}


def tool(name: str) -> str:
    """Find a program that only `.ci/run` installs; there it must not be missing."""
    path = shutil.which(name)
    if path is None:
        assert not os.environ.get("CI"), f".ci/run has to install {name}"
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is made of: the repository without what ``.dockerignore`` names, and an empty ``.env``."""
    folder = tmp_path_factory.mktemp("image") / "app"
    ignored = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]

    def left_out(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]

    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".env").touch()
    return folder


@pytest.fixture(scope="module")
def compose(image: Path) -> dict[str, Any]:
    """The compose file as docker-compose understands it, with an empty ``.env``."""
    done = subprocess.run([tool("docker-compose"), "config"], cwd=image, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A dollar is doubled, so that what is printed could be read again.
    found: dict[str, Any] = yaml.safe_load(done.stdout.replace("$$", "$"))
    return found


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    """A database and a Valkey without any process of ours."""
    with Deployment(webs=0) as deployment:
        yield deployment


def start(service: dict[str, Any], image: Path, deployment: Deployment, **changes: str) -> Child:
    """Run a service's command as the image would: its files, its settings, an ordinary user, our addresses."""
    port = free_port()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **service["environment"],
        "DATABASE_URL": deployment.database_url,
        "REDIS_URL": deployment.valkey.url,
        "ROOST_PORT": str(port),
        "PYTHONPATH": str(image),
        **changes,
    }
    words = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
    command = [*words, "env", "--chdir", str(image), *service["command"]]
    name = f"container-{port}"
    log = deployment.folder / f"{name}.log"
    child = Child(servers.session().folder, name, command, ending=Ending(turn=1), env=environment, log=log)
    return child.start()


def wait_until(claim: Callable[[], bool], children: Sequence[Child], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert all(child.is_alive for child in children), [child.exit_code for child in children]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_healthy(service: dict[str, Any], child: Child, replacing: tuple[str, str]) -> bool:
    """Run the service's own health check, with the address or path that it has here."""
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD"
    command = [word.replace(*replacing) for word in words]
    return subprocess.run(command, env=child.env, capture_output=True).returncode == 0


def test_compose_file_is_valid_and_whole(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert set(services) == SERVICES
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate"}
    assert set(compose["volumes"]) == {"caddy-data", "postgres-data"}
    assert any(volume.startswith("postgres-data:") for volume in services["postgres"]["volumes"])
    # Only the proxy is reachable from outside.
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert {services[name]["image"] for name in OURS} == {"roost"}


def test_processes_start_after_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]

    for name in ("web-1", "web-2", "worker"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_a_stop_leaves_time_to_drain(compose: dict[str, Any]) -> None:
    grace = int(compose["services"]["web-1"]["stop_grace_period"].removesuffix("s"))

    assert grace > Env.model_fields["drain_seconds"].default + 10


def test_image_runs_as_an_ordinary_user_and_installs_the_locks() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    last_user = [line.split()[1] for line in lines if line.startswith("USER ")][-1]

    assert last_user == "roost"
    assert lines.index("USER roost") > max(n for n, line in enumerate(lines) if line.startswith(("COPY", "RUN")))
    assert any("--require-hashes /build/requirements.lock" in line for line in lines)
    assert 'CMD ["python", "manage.py", "serve"]' in lines


def test_commands_of_the_image_work_by_hand(compose: dict[str, Any], image: Path, deployment: Deployment) -> None:
    services = compose["services"]
    heartbeat = deployment.folder / "heartbeat"

    migrate = start(services["migrate"], image, deployment)
    assert migrate.wait(60) == 0
    web = start(services["web-1"], image, deployment, ROOST_HOST="127.0.0.1")
    worker_service = {
        **services["worker"],
        "command": [word.replace("/tmp/heartbeat", str(heartbeat)) for word in services["worker"]["command"]],
    }
    worker = start(worker_service, image, deployment)

    address = ("127.0.0.1:8000", f"127.0.0.1:{web.env['ROOST_PORT']}")
    wait_until(lambda: is_healthy(services["web-1"], web, address), [web, worker])
    wait_until(lambda: is_healthy(worker_service, worker, ("/tmp/heartbeat", str(heartbeat))), [web, worker])
    assert web.stop() == 0
    assert worker.stop() == 0


@pytest.fixture
def proxied(deploy: Callable[..., Deployment], tmp_path: Path) -> Iterator[tuple[Deployment, int]]:
    """Two web processes behind a real Caddy with the real Caddyfile, and Caddy's port."""
    caddy = tool("caddy")
    deployment = deploy(webs=2, environment={"ROOST_TRUSTED_PROXIES": "127.0.0.0/8"})
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ROOST_SITE": f"http://127.0.0.1:{port}",
        "ROOST_UPSTREAMS": " ".join(f"127.0.0.1:{web.port}" for web in deployment.webs),
    }
    # Caddy's own administration would want a port that the machine may use.
    configuration = tmp_path / "Caddyfile"
    configuration.write_text("{\n\tadmin off\n}\n\n" + (ROOT / "Caddyfile").read_text())
    child = Child(
        servers.session().folder,
        f"caddy-{port}",
        [caddy, "run", "--config", configuration, "--adapter", "caddyfile"],
        ending=Ending(turn=1),
        env=environment,
        log=tmp_path / "log",
    ).start()
    wait_until(lambda: status(port, "/health/ready") == 200, [child])
    yield deployment, port
    child.stop()


def test_caddy_serves_pages_and_websockets(proxied: tuple[Deployment, int]) -> None:
    _, port = proxied

    assert status(port, "/") == 200
    # Again on Caddy's kept-alive connection to the page's socket layer: the websocket must not land there.
    assert upgrade(port) == "HTTP/1.1 101 Switching Protocols"


def test_caddy_turns_to_the_other_process_when_one_is_killed(proxied: tuple[Deployment, int]) -> None:
    deployment, port = proxied

    deployment.webs[0].signal(signal.SIGKILL)

    assert [status(port, "/health/live") for _ in range(8)] == [200] * 8


def status(port: int, path: str) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.request.HTTPError as error:
        return int(error.code)
    except OSError:
        return None
