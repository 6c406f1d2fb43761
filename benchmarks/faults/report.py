"""Tables of outcomes, for the terminal and docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.outcomes import Judged

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
INPUTS = ("right", "silent", "traceback", "hang", "ran code", "unclear", "not made")
DAMAGES = ("right", "silent", "traceback", "hang", "other figures", "unclear", "not made")


def summary(judged: Sequence[Judged], kinds: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return counts of outcomes by area."""
    found: dict[str, Counter[str]] = {}
    for one in judged:
        found.setdefault(one.area, Counter())[one.outcome.kind] += 1
    return {area: {kind: counts[kind] for kind in kinds} for area, counts in found.items()}


def table(title: str, counts: dict[str, dict[str, int]], kinds: Sequence[str]) -> str:
    """Return counts as a Markdown table, with a line of sums."""
    if not counts:
        return ""
    every = {kind: sum(row[kind] for row in counts.values()) for kind in kinds}
    rows = [f"| {title} | cases | {' | '.join(kinds)} |", "|---|" + "---:|" * (len(kinds) + 1)]
    for name, row in (*counts.items(), ("all", every)):
        rows.append(f"| {name} | {sum(row.values())} | {' | '.join(str(row[kind]) for kind in kinds)} |")
    return "\n".join(rows)


def page(judged: Sequence[Judged], repaired: Sequence[Judged], killed: dict[str, Any] | None) -> str:
    """Return all tables."""
    parts = [
        table("malformed inputs", summary(judged, INPUTS), INPUTS),
        table("damages", summary(repaired, DAMAGES), DAMAGES),
    ]
    if killed:
        parts.append(f"kills: {killed}")
    return "\n\n".join(filter(None, parts))


def write(judged: Sequence[Judged], repaired: Sequence[Judged], killed: dict[str, Any] | None) -> None:
    """Put the tables into the page."""
