"""Figures in the pages of docs/: tables between markers, which commands replace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(headings), ["---:"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(page: Path, name: str, figure: str) -> None:
    """Put a figure between its markers."""
    before, _, after = _parts(page, name)
    page.write_text(f"{before}{figure}{after}", encoding="utf-8")


def update(page: Path, name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], keys: int) -> None:
    """Put rows into the table between a figure's markers, where each replaces the one with its first `keys` cells.

    A table with other headings is not kept.
    """
    found = {row[:keys]: row for row in [*kept(page, name, headings), *map(tuple, rows)]}
    write(page, name, table(headings, list(found.values())))


def kept(page: Path, name: str, headings: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of the table between a figure's markers; none if it has other headings."""
    _, figure, _ = _parts(page, name)
    lines = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in figure.splitlines()]
    return lines[2:] if lines and lines[0] == tuple(headings) else []


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """Return what stands before a figure, the figure, and what stands after it."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"(.*<!-- figures:{re.escape(name)} -->\n)(.*?)(<!-- /figures -->.*)", text, re.DOTALL)
    if len(found) != 1 or text.count(f"<!-- figures:{name} -->") != 1:
        raise SystemExit(f"{page}: there must be one place marked figures:{name}")
    return found[0]
