"""The first figure: what separates every two methods, and each from the start, on one scale with its zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.eval.comparison.sentences import digits_for
from preflab.eval.metrics.measures import Column, fixed, percent
from preflab.eval.metrics.reward import GOLD
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Figure
from preflab.eval.report.figures import WIDE, Plot
from preflab.eval.report.measures import Table, cell
from preflab.eval.report.style import LIGHT
from preflab.eval.report.text import finite, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPEN = 6
"""Rows that stand open on the page, so that the figure fits on the first screen."""

EDGE = 3.0  # percent of the scale left free on both sides, for the marks' own width


class Contrast(NamedTuple):
    """What separates two methods.

    Attributes:
        first: a method.
        second: the other, or the start.
        difference: first minus second, in the measure's unit.
        p: after Holm's correction.
        winner: which is better beyond chance, if either is.
    """

    first: str
    second: str
    difference: Figure
    p: float
    winner: str | None


class Contrasts(NamedTuple):
    """All that the figure shows.

    Attributes:
        unit: what differences are of, with the unit.
        column: prints a difference.
        between: of two methods, the better one first.
        start: of every method and the start.
        elsewhere: how many tests are of another measure, and not drawn.
    """

    unit: str
    column: Column
    between: Sequence[Contrast]
    start: Sequence[Contrast]
    elsewhere: int

    @property
    def factor(self) -> float:
        """What a difference is multiplied by to be in the unit."""
        return 100.0 if self.column.number is percent else 1.0

    @property
    def rows(self) -> list[Contrast]:
        """Return all of them, those between methods first."""
        return [*self.between, *self.start]


def contrasts(comparison: Comparison) -> Contrasts | None:
    """Return the differences by the endpoint that the headline answers by; None where nothing was tested."""
    if comparison.primary == "equal-kl" and comparison.frontier and comparison.frontier.equal_kl:
        rows = comparison.frontier.equal_kl
        found = [Contrast(r.first, r.second, r.difference, r.p_adjusted, _winner(r)) for r in rows]
        unit, elsewhere = f"{GOLD.heading}, mean over the KLs that both reach", 0
        column = _column([c.difference for c in found])
    else:
        golds = [pair for pair in comparison.pairwise if pair.measure == GOLD.key]
        tests = golds or list(comparison.pairwise)
        found = [Contrast(t.first, t.second, t.difference, t.p_adjusted, t.winner) for t in tests]
        unit = GOLD.heading if golds else "win rate less that of the other, percentage points"
        column = _column([c.difference for c in found]) if golds else Column("", "", percent)
        elsewhere = len(comparison.pairwise) - len(tests)
    if not found:
        return None
    place = {row.method: at for at, row in enumerate(comparison.ranking)}
    begin = comparison.baseline
    against = [_turned(c) if c.first == begin else c for c in found if begin in (c.first, c.second)]
    between = [_turned(c) if c.difference.mean < 0 else c for c in found if begin not in (c.first, c.second)]

    def order(contrast: Contrast) -> tuple[int, int]:
        return place.get(contrast.first, len(place)), place.get(contrast.second, len(place))

    return Contrasts(unit, column, sorted(between, key=order), sorted(against, key=order), elsewhere)


def _column(figures: Sequence[Figure]) -> Column:
    """Return what prints differences of rewards, which have any unit, with the digits that their intervals ask for."""
    halves = [(f.high - f.low) / 2 or abs(f.mean) for f in figures if finite(f.low) and finite(f.high)]
    digits = max((digits_for(half) for half in halves), default=2)
    return Column("", "", lambda value: fixed(value, digits))


def _winner(row: Any) -> str | None:
    return {"first": row.first, "second": row.second, "none": None}[row.verdict]


def _turned(contrast: Contrast) -> Contrast:
    """Return the same seen from the other side."""
    d = contrast.difference
    turned = replace(d, mean=-d.mean, low=-d.high, high=-d.low)
    return contrast._replace(first=contrast.second, second=contrast.first, difference=turned)


# ---- on the page -------------------------------------------------------------------------------------


def first_figure(comparison: Comparison) -> Table | None:
    """Return the rows of the figure in groups, where they stand on the scale (percent), and the scale's ticks."""
    found = contrasts(comparison)
    if found is None:
        return None
    ticks = scale([row.difference for row in found.rows])
    low, width = ticks[0], ticks[-1] - ticks[0]

    def at(value: float) -> float:
        return round(EDGE + (100 - 2 * EDGE) * (value - low) / width, 2)

    def shown(row: Contrast) -> Table:
        text, d = cell(row.difference, found.column), row.difference
        verdict = "no detectable difference" if row.winner is None else f"{row.winner} better"
        ends = {"low": at(d.low), "high": at(d.high)} if finite(d.low) and finite(d.high) else None
        text |= {"text": f"+{text['text']}"} if finite(d.mean) and d.mean > 0 else {}
        mean = at(d.mean) if finite(d.mean) else None
        return {**row._asdict(), **text, "p": p_value(row.p), "verdict": verdict, "mean": mean, "ends": ends}

    groups = [("Between methods", found.between), (f"Against {comparison.baseline}", found.start)]
    rows, left = [], OPEN
    for title, own in groups:
        if own and left > 0:
            rows.append({"title": title, "rows": [shown(row) for row in own[:left]]})
        left -= len(own)
    rest = [shown(row) for row in found.rows[OPEN:]]
    return {
        "unit": found.unit,
        "groups": rows,
        "rest": rest,
        "zero": at(0.0),
        "ticks": [{"at": at(tick), "text": f"{found.factor * tick:.6g}".replace("-", "−")} for tick in ticks],
        "elsewhere": found.elsewhere,
    }


def scale(figures: Sequence[Figure], most: int = 6) -> list[float]:
    """Return round numbers, evenly spaced, that hold 0 and every figure with its interval."""
    ends = [value for f in figures for value in (f.low, f.mean, f.high) if finite(value)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(k for k in (1, 2, 2.5, 5, 10, 20) if span / (k * step) <= most - 1)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), 1)
    return [number * step for number in range(first, last + 1)]


# ---- as files ----------------------------------------------------------------------------------------


def differences(comparison: Comparison) -> Plot | None:
    """The same for files: differences with their intervals, one below another."""
    found = contrasts(comparison)
    if found is None:
        return None
    rows = [row for row in found.rows if finite(row.difference.mean)]
    factor = found.factor

    def draw(axes: Axes) -> None:
        axes.axvline(0.0, color=LIGHT["ink"], linewidth=1)
        for at, row in enumerate(rows):
            d, sure = row.difference, row.winner is not None
            if finite(d.low) and finite(d.high):
                axes.hlines(at, factor * d.low, factor * d.high, color=LIGHT["ink"], linewidth=1.6)
            face = LIGHT["ink"] if sure else LIGHT["paper"]
            axes.plot([factor * d.mean], [at], marker="o", color=LIGHT["ink"], markerfacecolor=face, linestyle="")
        axes.set_yticks(range(len(rows)), [f" {_cut(row.first)} − {_cut(row.second)}" for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.set_xlabel(f"difference in {found.unit}")
        axes.grid(visible=False, axis="y")

    caption = (
        "First minus second, with the 95 % interval of that pair alone. Filled: a difference beyond chance after "
        "Holm’s correction over all pairs; hollow: no detectable difference."
    )
    data = [
        {"first": r.first, "second": r.second, "measure": found.unit, "difference": r.difference.mean,
         "low": r.difference.low, "high": r.difference.high, "p_corrected": r.p, "better": r.winner or ""}
        for r in found.rows
    ]  # fmt: skip
    size = (WIDE[0], min(12.0, 1.0 + 0.32 * max(3, len(rows))))
    return Plot("differences", "Differences between methods", caption, size, [], draw, data)


def _cut(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
