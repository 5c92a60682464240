"""Documents tell the truth: every setting is described in the same words in three places, and links lead somewhere."""

import re
from pathlib import Path

import pytest

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
