"""What is aimed at, as ratios and bounds within one run, and whether a run reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .report import Report

ROOST, GO, FLOOR, TUTORIAL, PROTOBUF = "Roost", "Go peer", "C floor", "Channels on Daphne", "Roost, Protobuf"
PAIRS = "1,000 people in 500 direct conversations, all send"
BACK = "2,000 come back at once, 20 positions each"
IDLE = "10,000 idle connections with one subscription"
RATE = "4,000 pushes, the provider answers after 100 ms"
GROUP = "a message to 5,000 phones of one group"
LATENCY = "50 messages a second, from commit to the provider"
# What is compared between the encodings: CPU for each delivery, answer or connection.
ENCODED = (
    "fan-out to 500, one at a time",
    "fan-out to 2,000, one at a time",
    "fan-out to 500, 64 in flight",
    "fan-out to 500 without history, one at a time",
    "fan-out to 500 without history, 64 in flight",
    "rpc answered, 500 connections",
    BACK,
)


class Judged(NamedTuple):
    """One goal as a run has it."""

    goal: str
    found: str
    is_reached: bool


class Missing(Exception):
    """A figure was not taken: there was no such server, or it was not asked for."""


class Figures:
    """A report's numbers."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def of(self, work: str, server: str = ROOST, name: str = "") -> float:
        """
        A number of a line: the one that is compared, or one of its others by name.

        Raises:
            Missing
        """
        figure = self._report.figures.get(work, {}).get(server)
        if figure is None:
            raise Missing
        return figure.others[name] if name else figure.number

    def ratio(self, work: str, other: str, server: str = ROOST) -> float:
        return self.of(work, server) / self.of(work, other)


def judge(report: Report) -> list[Judged]:
    """All goals of which the run has the figures."""
    figures = Figures(report)
    found = []
    for goal, look in _goals(figures):
        try:
            text, is_reached = look()
        except Missing:
            continue
        found.append(Judged(goal, text, is_reached))
    return found


Look = Callable[[], tuple[str, bool]]


def _goals(figures: Figures) -> Iterator[tuple[str, Look]]:
    def most(value: Callable[[], float], bound: float, unit: str = "") -> Look:
        def look() -> tuple[str, bool]:
            number = value()
            return f"{number:.3g}{unit}", number <= bound

        return look

    def least(value: Callable[[], float], bound: float, unit: str = "") -> Look:
        def look() -> tuple[str, bool]:
            number = value()
            return f"{number:,.0f}{unit}", number >= bound

        return look

    for how in ("", " without history"):
        for people in ("500", "2,000"):
            work = f"fan-out to {people}{how}, one at a time"
            plain = f"fan-out to {people}, one at a time"
            for other, bound, text in ((FLOOR, 1.8, "1.8"), (GO, 0.8, "0.8"), (TUTORIAL, 1 / 60, "1/60")):
                yield (
                    f"{work}: ≤ {text} × {other}",
                    most(lambda w=work, p=plain, o=other: figures.of(w) / figures.of(p, o), bound),
                )
        work, plain = f"fan-out to 500{how}, 64 in flight", "fan-out to 500, 64 in flight"
        yield (
            f"{work}: ≤ 0.3 × Go",
            most(lambda w=work, p=plain: figures.of(w) / figures.of(p, GO), 0.3),
        )
    yield "rpc: ≤ 1.1 × Go", most(lambda: figures.ratio("rpc answered, 500 connections", GO), 1.1)
    yield "direct conversations: ≥ 10,000 messages/s", least(lambda: figures.of(PAIRS), 10_000, "/s")
    yield "the same: p99 ≤ 130 ms", most(lambda: figures.of(PAIRS, name="p99_ms"), 130, " ms")
    yield "durable, 100 senders: ≥ 12,000/s", least(lambda: figures.of("durable sends, 100 at once"), 12_000, "/s")
    yield (
        "the same: p99 ≤ 20 ms",
        most(lambda: figures.of("durable sends, 100 at once", name="p99_ms"), 20, " ms"),
    )
    yield (
        "durable, one sender: p50 ≤ 1.5 ms",
        most(lambda: figures.of("durable sends, 1 at once", name="p50_ms"), 1.5, " ms"),
    )
    yield "coming back with 20 positions: ≤ 1 ms CPU", most(lambda: figures.of(BACK), 1, " ms")
    yield "the same: ≤ 3 × Go", most(lambda: figures.ratio(BACK, GO), 3)
    missed = "the same, a message missed in each"
    yield "2,000 with recovery: all live within 5 s", most(lambda: figures.of(missed, name="seconds"), 5, " s")
    yield "POST publish: ≤ 1.5 × Go", most(lambda: figures.ratio("POST publish, 32 connections", GO), 1.5)
    yield "POST batch: ≤ 8 µs each", most(lambda: figures.of("POST batch of 100 publications"), 8, " µs")
    yield "idle connection at 10,000: ≤ 22 KB", most(lambda: figures.of(IDLE), 22, " KB")
    yield (
        "each further subscription: ≤ 200 bytes",
        most(lambda: figures.of("each further subscription of 10,000"), 200, " bytes"),
    )
    yield "their pings: ≤ 3 % of a core", most(lambda: 100 * figures.of(IDLE, name="core"), 3, " %")
    yield "pushes at 100 ms of provider latency: ≥ 200/s", least(lambda: figures.of(RATE), 200, "/s")
    yield "5,000 phones of one group: ≤ 30 s", most(lambda: figures.of(GROUP), 30, " s")
    yield "the same: the worker grows by ≤ 64 MB", most(lambda: figures.of(GROUP, name="grown_mb"), 64, " MB")
    yield "from commit to the provider at 50 messages/s: p95 ≤ 1 s", most(lambda: figures.of(LATENCY), 1000, " ms")
    for work in ENCODED:
        yield (
            f"Protobuf: ≤ 1.3 × JSON ({work})",
            most(lambda w=work: figures.of(w, PROTOBUF) / figures.of(w), 1.3),
        )
    yield (
        "rpc while 2,000 get 50 publications a second: p99 ≤ 25 ms",
        most(lambda: figures.of("rpc while 2,000 get 50 publications a second"), 25, " ms"),
    )
