"""Documents tell the truth: settings, methods, events and codes are those of the code, and links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from consumers import rpc
from consumers.protocol.codes import Disconnect
from models.events import Event
from models.reasons import REASONS
from server.api.operations import OPERATIONS
from server.env import Env

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)")


def variables() -> dict[str, str]:
    """Every variable with its description."""
    return {
        str(field.validation_alias or f"ROOST_{name.upper()}"): field.description or ""
        for name, field in Env.model_fields.items()
    }


def test_every_setting_has_a_description() -> None:
    assert [name for name, description in variables().items() if not description] == []


def test_settings_are_documented_in_the_same_words() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()

    documented = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", page, re.MULTILINE))

    assert documented == variables()


def test_example_environment_has_the_same_words() -> None:
    example = (ROOT / ".env.example").read_text()

    named = {name: comment for comment, name in re.findall(r"^# (.*)\n#(\w+)=.*$", example, re.MULTILINE)}

    assert named == variables()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = [target for target in LINK.findall(path.read_text()) if not (path.parent / target).exists()]

    assert broken == []


def test_reasons_of_pushes_are_documented_in_the_same_words() -> None:
    page = (ROOT / "docs" / "push.md").read_text().partition("## Why a push did not arrive\n")[2].partition("\n## ")[0]

    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)) == REASONS


# --- docs/clients.md

CLIENTS = (ROOT / "docs" / "clients.md").read_text()


def section(title: str) -> str:
    """What stands under a heading."""
    return CLIENTS.partition(f"# {title}\n")[2].partition("\n## ")[0]


def test_every_method_is_documented_with_its_address() -> None:
    addresses = {o.method: f"{o.verb} /v1{o.path}" for o in OPERATIONS}

    found = dict(re.findall(r"^\| `([\w.]+)` \| .*? \| `(.*?)` \|$", section("Methods"), re.MULTILINE))

    assert {method: address.partition("?")[0] for method, address in found.items()} == addresses


def test_every_method_is_documented_with_its_input() -> None:
    found = dict(re.findall(r"^\| `([\w.]+)` \| `\{(.*?)\}` \|", section("Methods"), re.MULTILINE))

    documented = {
        method: {(name, mark == "?") for name, mark in re.findall(r'"(\w+)"(\??)', data)}
        for method, data in found.items()
    }
    taken = {
        method: {(field.name, not field.required) for field in fields(rpc.input_of(method))}
        for method in (*rpc.METHODS, rpc.SEND)
    }
    assert documented == taken


def test_every_event_is_documented_with_its_fields() -> None:
    rows = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \| (.*) \|$", section("Events"), re.MULTILINE)

    documented = {
        kind: set(re.findall(r"`(\w+)`", names)) for kinds, names in rows for kind in re.findall(r"`([\w.]+)`", kinds)
    }

    assert documented == {event.__struct_config__.tag: set(event.__struct_fields__) for event in all_events(Event)}


def all_events(base: Any) -> list[Any]:
    """The payloads that are sent, below their common bases."""
    below = base.__subclasses__()
    return [event for child in below for event in (all_events(child) or [child])]


def test_close_codes_are_the_protocols() -> None:
    documented = {int(code) for code in re.findall(r"^\| (3\d\d\d) \|", CLIENTS, re.MULTILINE)}

    assert documented <= {code.value for code in Disconnect}
    assert documented >= {3001, 3005, 3008, 3010, 3012, 3013, 3500, 3501, 3503}


def test_every_category_of_error_is_documented() -> None:
    documented = {int(status) for status in re.findall(r"^\| (\d\d\d) \|", section("Errors"), re.MULTILINE)}

    assert documented == set(rpc._STATUS.values())
