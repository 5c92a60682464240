"""The catalogue of reasons is that of the code: none is missing, and none is made up."""

import ast
from collections.abc import Iterator
from pathlib import Path

from models.reasons import REASONS

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "push" / "decision.py"
SENDING = [
    *(ROOT / "push" / name for name in ("sender.py", "clearer.py", "courier.py")),
    *sorted((ROOT / "push" / "providers").glob("*.py")),
]


def test_every_reason_of_a_rule_has_a_sentence() -> None:
    found = set(_words_of_rules(ast.parse(RULES.read_text())))

    assert len(found) > 15
    assert found - REASONS.keys() == set()


def test_every_reason_of_sending_has_a_sentence() -> None:
    found = {word for path in SENDING for word in _words_of_outcomes(ast.parse(path.read_text()))}

    assert found >= {"provider_not_configured", "not_renderable", "no_answer", "too_big"}
    assert found - REASONS.keys() == set()


def test_every_sentence_has_a_place_in_the_code() -> None:
    sources = [path for package in ("push", "models") for path in (ROOT / package).rglob("*.py")]
    code = "".join(path.read_text() for path in sources if path.name != "reasons.py")

    assert [reason for reason in REASONS if f'"{reason}"' not in code] == []


def _words_of_rules(tree: ast.AST) -> Iterator[str]:
    """What is yielded or returned as a reason, and what a drop or a wait is made with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Yield | ast.Return):
            yield from _words(node.value)
        elif isinstance(node, ast.Call) and _name(node) in ("Drop", "Wait"):
            yield from _words(node.args[0])


def _words_of_outcomes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if _name(node) == "Outcome" and len(node.args) > 1:
                yield from _words(node.args[1])
            if _name(node) == "Drop":
                yield from _words(node.args[0])
            for keyword in node.keywords:
                if keyword.arg == "reason":
                    yield from _words(keyword.value)
        elif isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["reason"]:
            yield from _words(node.value)


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", "")


def _words(value: ast.AST | None) -> Iterator[str]:
    """The constants among what a value may be."""
    if isinstance(value, ast.IfExp):
        yield from _words(value.body)
        yield from _words(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
        yield value.value
