"""Tags filters: every comparison, every operator, and trees that are none."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.filters import MAX_DEPTH, MAX_NODES, BadFilter, compile_filter
from consumers.protocol.messages import FilterNode

TAGS = {"lang": "english", "price": "10.50", "empty": ""}


def leaf(key: str, cmp: str, val: str = "", *vals: str) -> FilterNode:
    return FilterNode(key=key, cmp=cmp, val=val, vals=list(vals))


def both(op: str, *nodes: FilterNode) -> FilterNode:
    return FilterNode(op=op, nodes=list(nodes))


TRUE, FALSE = leaf("lang", "ex"), leaf("lang", "nex")


@pytest.mark.parametrize(
    ("node", "matches"),
    [
        (leaf("lang", "eq", "english"), True),
        (leaf("lang", "eq", "eng"), False),
        (leaf("none", "eq", ""), False),
        (leaf("empty", "eq", ""), True),
        (leaf("lang", "neq", "german"), True),
        (leaf("lang", "neq", "english"), False),
        (leaf("none", "neq", "x"), True),
        (leaf("lang", "in", "", "english", "german"), True),
        (leaf("none", "in", "", "english"), False),
        (leaf("lang", "nin", "", "german"), True),
        (leaf("lang", "nin", "", "english"), False),
        (leaf("none", "nin", "", "english"), True),
        (TRUE, True),
        (FALSE, False),
        (leaf("lang", "sw", "eng"), True),
        (leaf("lang", "ew", "ish"), True),
        (leaf("lang", "ct", "gli"), True),
        (leaf("none", "ct", "gli"), False),
        (leaf("price", "gt", "10.5"), False),
        (leaf("price", "gte", "10.5"), True),
        (leaf("price", "lt", "1e2"), True),
        (leaf("price", "lte", "-3"), False),
        (leaf("lang", "gt", "0"), False),
        (leaf("none", "lt", "0"), False),
        (both("and", TRUE, TRUE), True),
        (both("and", TRUE, FALSE), False),
        (both("or", FALSE, TRUE), True),
        (both("or", FALSE), False),
        (both("not", FALSE), True),
        (both("not", both("or", TRUE, FALSE)), False),
    ],
)
def test_filters(node: FilterNode, matches: bool) -> None:
    assert compile_filter(node)(TAGS) is matches


@pytest.mark.parametrize("text", ["inf", "NaN", "1_000", " 1", "١", "", "1" * 50, "0x1"])
def test_what_is_no_number_matches_nothing(text: str) -> None:
    assert compile_filter(leaf("price", "lt", "5"))({"price": text}) is False
    with pytest.raises(BadFilter):
        compile_filter(leaf("price", "lt", text))


def deep(levels: int) -> FilterNode:
    return TRUE if levels == 0 else both("not", deep(levels - 1))


@pytest.mark.parametrize(
    "node",
    [
        FilterNode(),
        leaf("lang", ""),
        leaf("", "ex"),
        leaf("lang", "like", "x"),
        leaf("lang", "in"),
        leaf("lang", "sw"),
        both("and"),
        both("not"),
        both("not", TRUE, TRUE),
        both("xor", TRUE),
        both("", TRUE),
        FilterNode(key="lang", cmp="ex", nodes=[TRUE]),
        both("or", *[TRUE] * MAX_NODES),
        deep(MAX_DEPTH),
        both("and", TRUE, leaf("lang", "oops")),
    ],
)
def test_malformed_trees_are_refused(node: FilterNode) -> None:
    with pytest.raises(BadFilter):
        compile_filter(node)


def test_as_much_as_is_allowed() -> None:
    nodes: list[Any] = [TRUE] * (MAX_NODES - 1)

    assert compile_filter(both("and", *nodes))(TAGS)
    assert compile_filter(deep(MAX_DEPTH - 1))(TAGS) is False
