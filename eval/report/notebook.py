"""A comparison as a notebook shows it: what it says, its table and its differences, in elements that run nothing.

Names and sentences are untrusted, and shown as text. Colours are fixed ones on a light ground of its own: a notebook's
page has none of the report's variables, and its dark theme is not the browser's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from preflab.disk.digests import digest
from preflab.eval.comparison.sentences import MEASURES, about
from preflab.eval.metrics import columns_of, win_rate
from preflab.eval.records.comparison import Comparison, PairTest
from preflab.eval.report.figures import Plot, page_svg
from preflab.eval.report.inline import inline_svg
from preflab.eval.report.measures import measure_table
from preflab.eval.report.style import LIGHT
from preflab.eval.report.table import ABSENT, cost_texts
from preflab.eval.report.text import clean, finite, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PAIRS = 12  # differences in a figure; the table and `comparison.pairwise` have all
LONGEST_NAME = 24
CARD = (
    f"background:{LIGHT['paper']};color:{LIGHT['ink']};border:1px solid {LIGHT['line']};border-radius:6px;"
    "padding:12px 16px;margin:4px 0;max-width:62em;font-family:system-ui,sans-serif;font-size:14px;line-height:1.45"
)
BADGE = (
    f"display:inline-block;background:{LIGHT['card']};color:{LIGHT['muted']};border:1px solid {LIGHT['line']};"
    "border-radius:10px;padding:1px 9px;font-size:12px"
)
WARNING = f"color:{LIGHT['bad']};margin:6px 0"
CELL = (
    f"text-align:right;padding:3px 7px;border-bottom:1px solid {LIGHT['line']};color:{LIGHT['ink']};white-space:nowrap"
)
NAME = CELL.replace("text-align:right", "text-align:left") + ";font-weight:600"
INTERVAL = f"color:{LIGHT['muted']};font-size:11px"


def comparison_html(comparison: Comparison) -> str:
    """Return the headline under what it is about, the table, and the figure of differences, as one element."""
    shown = clean(comparison)
    scope = about(shown)
    parts = [
        Markup('<span style="{}">{}</span>').format(BADGE, scope.strip().rstrip(":")) if scope else Markup(""),
        Markup('<p style="font-size:16px;font-weight:600;margin:8px 0">{}</p>').format(
            shown.headline.removeprefix(scope)
        ),
        Markup('<p style="{}">Judge: {}</p>').format(WARNING, shown.judge.warning)
        if shown.judge and shown.judge.warning
        else Markup(""),
        _table(shown),
        _figure(shown),
    ]
    return str(_card(parts))


def lines_html(lines: Sequence[str]) -> str:
    """Return lines of text as one element, the first of them as its headline."""
    first, *rest = (visible(line) for line in lines)
    parts = [Markup('<p style="font-weight:600;margin:0">{}</p>').format(first)]
    parts += [Markup('<p style="margin:2px 0">{}</p>').format(line) for line in rest]
    return str(_card(parts))


def _card(parts: Iterable[Markup]) -> Markup:
    return Markup('<div class="preflab" style="{}">{}</div>').format(CARD, Markup("\n").join(parts))


# ---- the table -----------------------------------------------------------------------------------


def _table(comparison: Comparison) -> Markup:
    table = measure_table({name: row.figures for name, row in comparison.methods.items()}, columns_of("table"))
    if table is None:
        return Markup("")
    costs = [cost_texts(row.train) if row.train else [] for row in comparison.methods.values()]
    heads = ["method", *table["headings"], "training"]
    rows = [
        _row([Markup('<td style="{}">{}</td>').format(NAME, row["name"]), *map(_cell, row["cells"]), _cost(cost)])
        for row, cost in zip(table["rows"], costs, strict=True)
    ]
    titles = [Markup('<th style="{}">{}</th>').format(NAME if at == 0 else CELL, text) for at, text in enumerate(heads)]
    return Markup(
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:6px 0;font-size:13px">'
        '<thead>{}</thead><tbody>{}</tbody></table></div><p style="{}">Mean [95 % interval].</p>'
    ).format(_row(titles), Markup("").join(rows), INTERVAL)


def _row(cells: Iterable[Markup]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(cells))


def _cell(found: dict[str, str]) -> Markup:
    interval = Markup('<br><span style="{}">{}</span>').format(INTERVAL, found["interval"]) if found["interval"] else ""
    return Markup('<td style="{}">{}{}</td>').format(CELL, found["text"], interval)


def _cost(texts: Sequence[str]) -> Markup:
    first, *rest = texts or [ABSENT]
    return _cell({"text": first, "interval": ", ".join(rest)})


# ---- the figure ----------------------------------------------------------------------------------


def differences(comparison: Comparison) -> Plot | None:
    """The difference of every two methods with its interval, those that can be told apart in colour."""
    pairs = [pair for pair in comparison.pairwise if finite(pair.difference.mean)][:MOST_PAIRS]
    if not pairs:
        return None
    measure = pairs[0].measure
    scale = 100.0 if measure == win_rate.WIN_RATE.key else 1.0
    unit = ", percentage points" if scale > 1.0 else ""

    def draw(axes: Axes) -> None:
        axes.axvline(0.0, color=LIGHT["muted"], linewidth=1, linestyle="--")
        for at, pair in enumerate(pairs):
            colour = LIGHT["muted" if pair.winner is None else "accent"]
            difference = pair.difference
            if finite(difference.low) and finite(difference.high):
                axes.hlines(at, scale * difference.low, scale * difference.high, color=colour, linewidth=2)
            axes.plot([scale * difference.mean], [at], color=colour, marker="o")
        axes.set_yticks(range(len(pairs)), [f" {_between(pair)}" for pair in pairs])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.set(xlabel=f"difference in {MEASURES.get(measure, measure)}{unit}")
        axes.grid(axis="y", visible=False)

    caption = "95 % intervals of each pair alone; in colour: told apart after correction over all pairs."
    left = len(comparison.pairwise) - len(pairs)
    caption += f" {left} more pairs are in comparison.pairwise." if left else ""
    size = (6.4, 0.9 + 0.34 * len(pairs))
    return Plot("differences", "Differences", caption, size, list(comparison.methods), draw)


def _between(pair: PairTest) -> str:
    names = (
        name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in (pair.first, pair.second)
    )
    return " − ".join(names)


def _figure(comparison: Comparison) -> Markup:
    from importlib.util import find_spec

    plot = differences(comparison) if find_spec("matplotlib") else None
    if plot is None:
        return Markup("")
    source = page_svg(plot)
    # Two figures of one notebook must not share the names of their parts.
    drawn = inline_svg(source, f"preflab-{digest(source, 8)}", f"{plot.title}. {plot.caption}")
    fixed = Markup(re.sub(r"var\(--([\w-]+)\)", lambda match: LIGHT[match[1]], str(drawn)))
    return Markup('<div style="max-width:{}px">{}</div><p style="{}">{}</p>').format(
        round(96 * plot.size[0]), fixed, INTERVAL, plot.caption
    )
