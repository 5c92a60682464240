"""The locks: one environment serves running and testing, and no lock names the registry it was made with."""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.compile(r"^([\w.-]+(?:\[[\w,]+\])?)==([^ ;]+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PINNED.findall((ROOT / name).read_text()))


def test_development_lock_holds_everything_that_runs() -> None:
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    wanted = {re.split(r"[\[<>=~ ;]", entry)[0].lower() for entry in project["dependencies"]}
    wanted_for_development = {
        re.split(r"[\[<>=~ ;]", entry)[0].lower() for entry in project["optional-dependencies"]["dev"]
    }

    assert wanted - pins("requirements.lock").keys() == set()
    assert wanted_for_development - pins("requirements-dev.lock").keys() == set()


def test_everything_is_pinned_by_hash() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-uv.lock"):
        entries = [part for part in re.split(r"\n(?=\S)", (ROOT / name).read_text()) if "==" in part.split("\n")[0]]

        assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_no_lock_names_a_registry() -> None:
    for path in ROOT.glob("requirements*.lock"):
        assert "://" not in path.read_text(), path.name
    for path in ROOT.glob("*/*/package-lock.json"):
        packages = json.loads(path.read_text())["packages"]

        assert [name for name, entry in packages.items() if "resolved" in entry] == []
