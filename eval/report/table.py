"""A comparison as a table: for the terminal, in Markdown, in LaTeX.

The metrics that have a column in it say so (`eval.metrics.columns_of`). Names are untrusted and never read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from preflab.errors.terminal import shortened
from preflab.eval.metrics import columns_of
from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
from preflab.eval.metrics.measures import PERCENT, Column
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Cost, Figure
from preflab.eval.report.text import finite

if TYPE_CHECKING:
    from rich.table import Table

    from preflab.eval.comparison.across import Differing

ABSENT = "–"
LONGEST = 60  # characters of one setting
SHARE = Column("", "", PERCENT.number, PERCENT.sign)


class TableRow(NamedTuple):
    """One method: its name, an (estimate, interval) text per column, and its training cost."""

    name: str
    cells: list[tuple[str, str]]
    cost: list[str]


def comparison_table(comparison: Comparison) -> Table:
    """Return the comparison for a terminal of 104 columns: each interval stands under its mean."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = _columns(comparison)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        caption=Text(_note(comparison)),
        caption_justify="left",
    )
    # 16 + 6 x 12 (an interval) + 8 + 7 gaps = 103: on 104 columns an interval of usual size stays whole.
    table.add_column(Text("method"), overflow="fold", max_width=16)
    for column in columns:
        table.add_column(Text(column.heading.replace(" ", "\n", 1)), justify="right", overflow="fold")
    table.add_column(Text("training"), justify="right", overflow="fold")
    for row in _rows(comparison, columns):
        cells = [Text("\n".join(part for part in cell if part)) for cell in row.cells]
        table.add_row(Text(row.name), *cells, Text("\n".join(row.cost) or ABSENT))
    return table


def differing_table(names: Sequence[str], differing: Differing) -> Table:
    """Return what differs between runs for a terminal, a column a run; long values are cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=differing.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    for name in names:
        table.add_column(Text(plain(name)), overflow="fold")
    for row in differing.rows:
        table.add_row(*(Text(shortened(plain(text), LONGEST) or ABSENT) for text in (row["field"], *row["cells"])))
    return table


def markdown_table(comparison: Comparison) -> str:
    """Return the comparison as a GitHub-flavoured Markdown table, with a line on the reward model."""
    columns = _columns(comparison)
    headings = ["method", *(column.heading for column in columns), "training"]
    lines = [_markdown_row(headings), "|---|" + "---:|" * (len(headings) - 1)]
    for row in _rows(comparison, columns):
        cells = [" ".join(part for part in cell if part) for cell in row.cells]
        lines.append(_markdown_row([_escape(row.name), *cells, ", ".join(row.cost) or ABSENT]))
    return "\n".join([*lines, "", _note(comparison), ""])


def latex_table(comparison: Comparison) -> str:
    r"""Return the comparison as a ``table`` for LaTeX; it needs ``\usepackage{booktabs}``."""
    columns = _columns(comparison)
    headings = ["method", *(column.heading for column in columns), "training"]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(_note(comparison))}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"    \toprule",
        _latex_row(_latex(heading) for heading in headings),
        r"    \midrule",
    ]
    for row in _rows(comparison, columns):
        cells = [
            _latex_number(mean) + (rf" {{\small {_latex_number(bounds)}}}" if bounds else "")
            for mean, bounds in row.cells
        ]
        lines.append(_latex_row([_latex(row.name), *cells, _latex(", ".join(row.cost) or ABSENT)]))
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _columns(comparison: Comparison) -> list[Column]:
    """Return the columns that at least one method fills."""
    filled = {key for row in comparison.methods.values() for key, figure in row.figures.items() if figure is not None}
    return [column for column in columns_of("table") if column.key in filled]


def _rows(comparison: Comparison, columns: list[Column]) -> list[TableRow]:
    return [
        TableRow(
            plain(name),
            [figure_text(row.figures.get(column.key), column) for column in columns],
            cost_texts(row.train) if row.train else [],
        )
        for name, row in comparison.methods.items()
    ]


def figure_text(figure: Figure | None, column: Column) -> tuple[str, str]:
    """Return ("61.2 %", "[57.9, 64.4]"), or a dash alone where the metric does not apply."""
    if figure is None or not finite(figure.mean):
        return ABSENT, ""
    known = finite(figure.low) and finite(figure.high)
    bounds = f"[{column.number(figure.low)}, {column.number(figure.high)}]" if known else ""
    return column.number(figure.mean) + column.unit, bounds


def cost_texts(train: Cost) -> list[str]:
    """Return training cost as ["42 s", "81 ktok", "1.2 GiB"], what is unknown left out."""
    seconds, tokens, memory = train.seconds, train.tokens, train.peak_memory_bytes
    texts = []
    if finite(seconds):
        texts.append(f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s")
    if finite(tokens):
        texts.append(scaled(tokens, 1000, ("tok", "ktok", "Mtok", "Gtok")))
    if finite(memory):
        texts.append(scaled(memory, 1024, ("B", "KiB", "MiB", "GiB", "TiB")))
    return texts


def scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    """Return `value` in the largest unit that leaves at least 1: ``1.2 GiB``, ``340 MiB``."""
    step = 0
    # 0.9995: what would be rounded up to the next unit belongs there.
    while step < len(units) - 1 and value >= 0.9995 * base:
        value /= base
        step += 1
    return f"{value:.1f} {units[step]}" if step and value < 9.95 else f"{value:.0f} {units[step]}"


def _note(comparison: Comparison) -> str:
    """Return the line under the table."""
    model, share = comparison.reward_model, comparison.humans.agreement if comparison.humans else None
    people = (
        f" The judge agrees with people on {' '.join(figure_text(share, SHARE))} of {share.n} pairs." if share else ""
    )
    note = f"Mean [95 % interval].{people}"
    if model is None or model.heldout_accuracy is None:
        return note
    text = " ".join(figure_text(model.heldout_accuracy, HELDOUT_ACCURACY.column))
    undecided = model.preferences.undecided if model.preferences else None
    half = f", {undecided} of them of preference 1/2, which count half" if undecided else ""
    return f"{note} Reward model: held-out accuracy {text} on {model.heldout_accuracy.n} pairs{half}."


def plain(text: object) -> str:
    """Return `text` on one line, with control and direction characters shown as a replacement mark."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _escape(text: str) -> str:
    """Return plain `text` so that Markdown shows it as it is: no table cells, HTML, links, code or formulas."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join("\\" + c if c in "\\|`*_[]~!$:" else c for c in text)
    return re.sub(r"(?i)(www)\.", r"\1\.", text)  # addresses become links without any mark of their own


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{REPLACEMENT CHARACTER}": "?",
    **{c: f"\\{c}" for c in "{}$&#%_"},
}


def _latex(text: str) -> str:
    """Return plain `text` so that LaTeX prints it as it is."""
    if text == ABSENT:
        return "--"
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(c, c) for c in text))  # two hyphens would become a dash


def _latex_number(text: str) -> str:
    return re.sub(r"-(?=\d)", "$-$", _latex(text))


def _latex_row(cells: Iterable[str]) -> str:
    row = " & ".join(cells)
    # A bracket or star that begins a row would be an argument of the row before.
    return "    " + (f"{{{row[0]}}}{row[1:]}" if row.startswith(("[", "*")) else row) + r" \\"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
