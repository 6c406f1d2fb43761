"""Tables of outcomes, for the terminal and docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.faults.outcomes import Judged

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
INPUTS = ("right", "silent", "traceback", "hang", "ran code", "unclear", "not made")
DAMAGES = ("right", "silent", "other figures", "traceback", "hang", "ran code", "unclear", "not made")
Counts = Mapping[str, Mapping[str, int]]


def summary(judged: Sequence[Judged], kinds: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return counts of outcomes by area."""
    found: dict[str, Counter[str]] = {}
    for one in judged:
        found.setdefault(one.area, Counter())[one.outcome.kind] += 1
    return {area: {kind: counts[kind] for kind in kinds} for area, counts in found.items()}


def table(title: str, counts: Counts, kinds: Sequence[str]) -> str:
    """Return counts as a Markdown table, with a line of sums; kinds that never occurred but must not be are shown."""
    every = {kind: sum(row[kind] for row in counts.values()) for kind in kinds}
    shown = [kind for kind in kinds if kind != "not made" or every[kind]]
    rows = [
        (name, sum(row.values()), *(row[kind] for kind in shown)) for name, row in (*counts.items(), ("all", every))
    ]
    return pages.table([title, "cases", *shown], [[str(cell) for cell in row] for row in rows])


def tables(judged: Sequence[Judged], repaired: Sequence[Judged], killed: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what was measured, by the name of its place in the page."""
    found = {}
    if judged:
        found["inputs"] = table("malformed inputs", summary(judged, INPUTS), INPUTS)
    if repaired:
        found["damages"] = table("damages", summary(repaired, DAMAGES), DAMAGES)
    if killed:
        row = [str(killed[name]) for name in ("kills", "runs", "failed")] + ["yes" if killed["equal"] else "no"]
        found["kills"] = pages.table(["kills", "runs", "of them failed", "figures, samples and weights equal"], [row])
    return found


def write(found: Mapping[str, str]) -> None:
    """Put tables into the page."""
    for name, figure in found.items():
        pages.write(PAGE, f"faults-{name}", figure)
