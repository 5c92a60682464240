"""What a newcomer does: clone, ``make run``, open the page, stop; ``make test``. As root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.children import ROOT

from .supervised import NOBODY, READY, Run, processes_in, surroundings, upgrade, wait_until_empty

pytestmark = pytest.mark.clone

# The promise is half a minute and a few seconds; the package registry's share of it is not ours.
FIRST_START_SECONDS = 60
NEXT_START_SECONDS = 15


@dataclass(frozen=True)
class Clone:
    folder: Path
    home: Path
    user: int | None

    def run(self, *words: str) -> Run:
        return Run(["make", *words], self.folder, home=self.home, user=self.user)


@pytest.fixture(scope="module", params=["us", "nobody"])
def clone(request: pytest.FixtureRequest) -> Iterator[Clone]:
    """A clone of what is committed, owned by the one who will use it."""
    user = None
    if request.param == "nobody":
        if os.geteuid() != 0:
            pytest.skip("only root can turn to another user, and an ordinary one is already us")
        user = NOBODY
    # Not pytest's folder, which is for us alone; and no hard links, whose owner would change in both places.
    home = Path(tempfile.mkdtemp(prefix="roost-home-"))
    folder = home / "roost"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    if user is not None:
        for path in (home, *home.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    yield Clone(folder, home, user)
    shutil.rmtree(home)


def test_make_run_brings_up_page_and_websocket_and_leaves_nothing(clone: Clone) -> None:
    with clone.run("run") as run:
        seconds = run.wait_for(READY, FIRST_START_SECONDS)
        status, page = run.get("/")

        assert status == 200
        assert "<html" in page
        assert upgrade(run.port) == "HTTP/1.1 101 Switching Protocols"
        assert seconds < FIRST_START_SECONDS
        run.end(signal.SIGTERM)

    assert processes_in(clone.folder) == {}


def test_a_second_start_takes_seconds_and_keeps_the_data(clone: Clone) -> None:
    with clone.run("run") as run:
        run.wait_for(READY, NEXT_START_SECONDS)

        assert log_in(run) == 200
        # Of make, which takes everything with it.
        run.end(signal.SIGKILL)

    wait_until_empty(clone.folder)


def test_only_its_own_folder_is_touched(clone: Clone) -> None:
    owner = os.geteuid() if clone.user is None else clone.user

    # Without optional locks git only looks: otherwise it may write its index anew, as us.
    changed = subprocess.run(
        ["git", "--no-optional-locks", "-c", f"safe.directory={clone.folder}", "status", "--porcelain"],
        cwd=clone.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    owners = {path.lstat().st_uid for path in clone.folder.rglob("*")}

    assert changed == ""
    assert owners == {owner}
    assert (clone.folder / ".roost").stat().st_mode & 0o777 == 0o700


def test_make_test_sets_itself_up(clone: Clone) -> None:
    with clone.run("test", "ARGS=-q tests/server/test_embedded.py -k data_and_addresses") as run:
        assert run.process.wait(240) == 0, run.output

    assert "1 passed" in run.output
    assert processes_in(clone.folder) == {}


def test_an_old_python_is_told(clone: Clone, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    tools = {name: shutil.which(name) for name in ("make", "sh", "test", "id", "touch", "npm", "env")}
    for name, path in tools.items():
        if path:
            (tmp_path / name).symlink_to(path)

    done = subprocess.run(
        ["make", "run"],
        cwd=bare(clone, tmp_path),
        env={**surroundings(tmp_path), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert "roost: Python 3.11 or later with its venv module is needed: install it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_writable_is_told(clone: Clone, tmp_path: Path) -> None:
    folder = bare(clone, tmp_path)
    folder.chmod(0o555)
    words = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []

    done = subprocess.run([*words, "make", "run"], cwd=folder, capture_output=True, text=True)

    assert done.returncode != 0
    assert f"roost: {folder} is not writable for nobody: clone into a folder that is yours." in done.stderr
    folder.chmod(0o755)


def bare(clone: Clone, place: Path) -> Path:
    """The files of the clone without what ``make run`` has made of it."""
    folder = place / "bare"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock", "requirements-uv.lock"):
        shutil.copy(clone.folder / name, folder)
    return folder


def log_in(run: Run) -> int:
    """Log in as the first demo account, as an app does."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{run.port}/_allauth/app/v1/auth/login",
        data=json.dumps({"email": "alice@example.com", "password": "roost-demo"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)
