"""The figures of a run: printed as they come, and written as a page with pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH, BAR, GAP, LABEL = 720, 22, 6, 180
OURS, OTHERS = "#2c7a7b", "#b7b7b7"
# What is drawn, and what its numbers are; the other lines are rates, or have nobody to be compared with.
DRAWN = {
    "fan-out to 500, one at a time": "µs of server CPU per delivery",
    "fan-out to 500, 64 in flight": "µs of server CPU per delivery",
    "rpc answered, 500 connections": "µs of server CPU each",
    "2,000 come back at once, 20 positions each": "ms of server CPU each",
}


class Figure(NamedTuple):
    """The number that is compared, the text that is shown, and further numbers by name."""

    number: float
    text: str
    others: dict[str, float]


@dataclass
class Report:
    """Figures by work and server."""

    machine: str
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def put(self, work: str, server: str, number: float, text: str, **others: float) -> None:
        self.figures.setdefault(work, {})[server] = Figure(number, text, others)
        print(f"{work:52} {text}", flush=True)

    def write(self, goals: list[str]) -> None:
        """Write docs/benchmarks.md with these lines about its goals, and a picture for each work that is drawn."""
        names = list(dict.fromkeys(name for by_server in self.figures.values() for name in by_server))
        lines = [
            "# Measured",
            "",
            f"`make bench ARGS=--write` on {datetime.now(UTC):%d %B %Y}: {self.machine}.",
            "[bench/README.md](../bench/README.md) says what is measured, beside what, and where the time goes.",
            "Compare figures within this page only: they are of one run on one noisy machine.",
            "",
        ]
        for number, work in enumerate(work for work in DRAWN if work in self.figures):
            path = DOCS / f"benchmark-{number}.svg"
            numbers = {name: figure.number for name, figure in self.figures[work].items()}
            path.write_text(_picture(f"{work}: {DRAWN[work]}", numbers))
            lines += [f"![{work}, {DRAWN[work]}]({path.name})", ""]
        lines += ["## Goals", "", *goals, ""]
        for work, by_server in self.figures.items():
            lines += [f"## {work[0].upper()}{work[1:]}", "", "| server | |", "|---|---|"]
            lines += [f"| {name} | {by_server[name].text} |" for name in names if name in by_server]
            lines.append("")
        (DOCS / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")


def _picture(title: str, numbers: dict[str, float]) -> str:
    """Bars, the longest as wide as there is room; what is much longer than the rest is cut, and says so."""
    most = min(max(numbers.values()), 6 * sorted(numbers.values())[len(numbers) // 2])
    height = 40 + len(numbers) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"',
        ' font-size="13">',
        f'<text x="0" y="16" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(sorted(numbers.items(), key=lambda item: item[1])):
        y = 30 + number * (BAR + GAP)
        width = (WIDTH - LABEL - 80) * min(value / most, 1)
        text = f"{value:.2g}" if value < 1 else f"{value:.1f}"
        colour = OURS if name.startswith("Roost") else OTHERS
        parts += [
            f'<text x="0" y="{y + 15}">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + width + 8:.1f}" y="{y + 15}">{text}{" →" if value > most else ""}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
