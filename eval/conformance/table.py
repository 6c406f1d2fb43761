"""The conformance figures as a terminal table and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from preflab.errors.terminal import one_line

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]

ABSENT = "–"
WORDS = 3  # the first so many columns are words, the rest figures


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.2f} %"


def _kl(row: Row) -> str:
    if row["kl"] is None:
        return ABSENT
    return f"{row['kl']:.2f}" + (f" ({row['optimal_kl']:.2f})" if row["optimal_kl"] is not None else "")


def _gain(row: Row) -> str:
    return ABSENT if row["gain"] is None else f"{row['gain']:.2f} [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: str(row["method"]),
    "labels": lambda row: str(row["labels"]),
    "optimum": lambda row: str(row["optimum"]),
    "regret": lambda row: _percent(row["regret"]),
    "floor": lambda row: _percent(row["floor"]),
    "R²": lambda row: ABSENT if row["r2"] is None else f"{row['r2']:.4f}",
    "KL (optimum's)": _kl,
    "gain": _gain,
    "unseen": lambda row: _percent(row.get("unseen")),
    "steps": lambda row: str(row["steps"]),
    "seconds": lambda row: f"{row['seconds']:.0f}",
    "checks": lambda row: row.get("checks") or ABSENT,
    "met": lambda row: "yes" if row["met"] else "NO",
}
"""Each heading, and what stands under it for one row of conformance.json."""


def terminal_table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table, columns = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False), columns_of(rows)
    for number, heading in enumerate(columns):
        table.add_column(Text(heading), justify="left" if number < WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell(row))) for cell in columns.values()))
    return table


def columns_of(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return the columns in which something stands."""
    return {heading: cell for heading, cell in COLUMNS.items() if not rows or any(cell(row) != ABSENT for row in rows)}


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table as GitHub-flavoured Markdown."""
    columns = columns_of(rows)
    cells = [[cell(row).replace("|", "\\|") for cell in columns.values()] for row in rows]
    lines = [list(columns), ["---"] * WORDS + ["---:"] * (len(columns) - WORDS), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
