"""Tags filters: a tree in a subscribe request becomes a predicate on a publication's tags. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from .protocol.messages import FilterNode

Predicate = Callable[[Mapping[str, str]], bool]

# A filter is evaluated for each publication and subscriber that has one.
MAX_NODES = 100
MAX_DEPTH = 10


class BadFilter(ValueError):
    """The tree is malformed, or too large."""


def compile_filter(tree: FilterNode) -> Predicate:
    """
    Make the predicate of a tree.

    Raises:
        BadFilter: something is missing, unknown or too much.
    """
    if _count(tree, MAX_DEPTH) > MAX_NODES:
        raise BadFilter("too many nodes")
    return _compile(tree)


def _count(node: FilterNode, depth: int) -> int:
    if depth == 0:
        raise BadFilter("too deep")
    return 1 + sum(_count(child, depth - 1) for child in node.nodes)


def _compile(node: FilterNode) -> Predicate:
    if node.op == "":
        return _leaf(node)
    parts = [_compile(child) for child in node.nodes]
    if node.op in ("and", "or") and parts:
        decide = all if node.op == "and" else any
        return lambda tags: decide(part(tags) for part in parts)
    if node.op == "not" and len(parts) == 1:
        (part,) = parts
        return lambda tags: not part(tags)
    raise BadFilter(f"operator {node.op!r} with {len(parts)} nodes")


def _leaf(node: FilterNode) -> Predicate:
    key, value, values = node.key, node.val, frozenset(node.vals)
    if not key or node.nodes:
        raise BadFilter("a leaf has a key and no nodes")
    match node.cmp:
        case "ex":
            return lambda tags: key in tags
        case "nex":
            return lambda tags: key not in tags
        case "eq":
            return lambda tags: tags.get(key) == value
        case "neq":
            return lambda tags: tags.get(key) != value
        case "in" if values:
            return lambda tags: tags.get(key) in values
        case "nin" if values:
            return lambda tags: tags.get(key) not in values
        case "sw" if value:
            return lambda tags: tags.get(key, "").startswith(value)
        case "ew" if value:
            return lambda tags: tags.get(key, "").endswith(value)
        case "ct" if value:
            return lambda tags: value in tags.get(key, "")
        case "gt" | "gte" | "lt" | "lte":
            return _number(key, node.cmp, value)
    raise BadFilter(f"comparison {node.cmp!r}, or its value is missing")


def _number(key: str, comparison: str, text: str) -> Predicate:
    bound = _decimal(text)
    if bound is None:
        raise BadFilter(f"{text!r} is no number")
    holds: Callable[[Decimal], bool] = {
        "gt": lambda number: number > bound,
        "gte": lambda number: number >= bound,
        "lt": lambda number: number < bound,
        "lte": lambda number: number <= bound,
    }[comparison]

    def predicate(tags: Mapping[str, str]) -> bool:
        number = _decimal(tags.get(key, ""))
        return number is not None and holds(number)

    return predicate


def _decimal(text: str) -> Decimal | None:
    # Decimal() takes blanks, underscores, infinities and other digits than ours; a number here is none of those.
    if not text or len(text) > 40 or not text.isascii() or text.strip("0123456789.+-eE"):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
