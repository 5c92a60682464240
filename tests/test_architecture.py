"""Rules about the source itself: every module says what it is, and the environment is read in one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "consumers", "push", "server", "tests", "bench", "clients")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts and "node_modules" not in path.parts
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} has no opening lines"


def test_nothing_waits_in_a_way_that_may_swallow_its_cancellation() -> None:
    # `asyncio.wait_for` of Python 3.11 returns the result of what ended just then, and the task lives on.
    users = [str(path.relative_to(ROOT)) for path in MODULES if "asyncio.wait_for(" in path.read_text()]

    assert [name for name in users if not name.startswith(("tests/", "bench/"))] == []


def test_only_env_reads_the_environment() -> None:
    # A supervisor hands its environment on, and entry points name the settings module: neither reads a setting.
    allowed = {f"server/{name}.py" for name in ("env", "children", "run", "embedded", "asgi")} | {"manage.py"}

    readers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.relative_to(ROOT).parts[0] in ("models", "consumers", "push", "server")
        and "os.environ" in path.read_text()
    }

    assert readers <= allowed
