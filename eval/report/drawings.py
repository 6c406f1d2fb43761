"""What each plot shows: from the comparison's numbers to lines on axes. Null and missing values are not drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preflab.eval.records.comparison import Comparison
from preflab.eval.report.curves import learning, tuning
from preflab.eval.report.differences import differences
from preflab.eval.report.figures import PANEL, Plot
from preflab.eval.report.style import LIGHT, Style, method_styles
from preflab.eval.report.text import finite
from preflab.eval.report.tradeoffs import bounds, estimate, frontier, overoptimisation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Styles = Mapping[str, Style]
CURVES = (
    ("reward", "proxy reward of training answers"),
    ("kl", "log-ratio of training answers, nats"),
    ("loss", "loss"),
    ("entropy", "entropy, nats per token"),
    ("response_length", "response length, tokens"),
    ("accuracy", "accuracy on training pairs"),
)

CAPTIONS = {
    "reward": "What the reward model says of answers drawn in training, on its own scale.",
    "kl": "The mean of log π/π_ref over answers drawn in training: an estimate from the tokens that were sampled. The "
    "KL of this page is another, exact at every token, of the answers to the test prompts.",
    "loss": "Losses of different methods are not on one scale.",
}
MARKS_PER_CURVE = 5


def plots(comparison: Comparison) -> list[Plot]:
    """Return every plot that the comparison has data for."""
    styles = method_styles(comparison)
    drawn = (frontier, overoptimisation, learning, tuning, reliability, length_bias)
    single = (differences(comparison), *(make(comparison, styles) for make in drawn))
    return [*(plot for plot in single if plot is not None), *training(comparison, styles)]


def reliability(comparison: Comparison, styles: Styles) -> Plot | None:
    """How often the preferred response was chosen, against how sure the model was."""
    known = {name: found for name, row in comparison.methods.items() if (found := row.preferences)}
    drawn = {
        name: [row for row in found.reliability if finite(row.confidence) and finite(row.accuracy)]
        for name, found in known.items()
    }
    bins = {name: rows for name, rows in drawn.items() if rows}
    if not bins:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=LIGHT["muted"], linewidth=1, linestyle="--")
        for name, rows in bins.items():
            style = styles[name]
            x, y = [row.confidence for row in rows], [row.accuracy for row in rows]
            bars = [(row.confidence, row.low, row.high) for row in rows if finite(row.low) and finite(row.high)]
            if bars:
                axes.vlines(*zip(*bars, strict=True), color=style.colour, alpha=0.5, linewidth=1)
            axes.plot(x, y, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=1.3)
        axes.set(xlabel="confidence", ylabel="accuracy")

    caption = (
        "On the dashed line confidence is accuracy. Below it a model is surer than it is right. Bars: 95 % intervals."
    )
    data = [{"method": name, **vars(row)} for name, rows in bins.items() for row in rows]
    return Plot("reliability", "Reliability", caption, PANEL, list(bins), draw, data)


def length_bias(comparison: Comparison, styles: Styles) -> Plot | None:
    """Accuracy by how much longer the chosen response is."""
    found = {name: row.preferences.length_buckets for name, row in comparison.methods.items() if row.preferences}
    known = {name: [row for row in rows if finite(row.accuracy.mean)] for name, rows in found.items()}
    buckets = {name: rows for name, rows in known.items() if rows}
    if not buckets:
        return None
    keys = {(row.low, row.high) for rows in buckets.values() for row in rows}
    order = sorted(
        keys, key=lambda ends: (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])
    )
    place = {ends: i for i, ends in enumerate(order)}

    def draw(axes: Axes) -> None:
        axes.axhline(0.5, color=LIGHT["muted"], linewidth=1, linestyle="--")
        for name, rows in buckets.items():
            style = styles[name]
            rows = sorted(rows, key=lambda row: place[row.low, row.high])
            spots = [place[row.low, row.high] for row in rows]
            accuracy, low, high = bounds([row.accuracy for row in rows])
            axes.vlines(spots, low, high, color=style.colour, alpha=0.5, linewidth=1)
            axes.plot(spots, accuracy, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=1.3)
        axes.set_xticks(range(len(order)), [_range(*ends) for ends in order], rotation=30, ha="right")
        axes.set(xlabel="chosen minus rejected, tokens", ylabel="accuracy")

    caption = (
        "A flat line is a model that does not mind length. Rising to the right: it prefers what is longer, whether or "
        "not people do. Dashed: chance. Bars: 95 % intervals."
    )
    data = [
        {
            "method": name,
            "longer_from": row.low,
            "longer_to": row.high,
            **estimate("accuracy", row.accuracy),
            "n": row.n,
        }
        for name, rows in buckets.items()
        for row in rows
    ]
    return Plot("length-bias", "Accuracy by difference in length", caption, PANEL, list(buckets), draw, data)


def _range(low: Any, high: Any) -> str:
    if low is None and high is None:
        return "all"
    if low == high:
        return f"{low:g}"
    text = f"< {high:g}" if low is None else f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
    return text.replace("-", "−")


def training(comparison: Comparison, styles: Styles) -> list[Plot]:
    """Return a plot per metric that some method logged, `CURVES` first: mean over seeds, their range as a band."""
    known = dict(CURVES)
    runs = [rows for seeds in comparison.training.values() for rows in seeds.values()]
    more = dict.fromkeys(key for rows in runs for row in rows for key in row if key not in ("step", *known))
    named = [(key, title, f"training-{key.replace('_', '-')}") for key, title in CURVES]
    # Whoever wrote a method named its metrics; a number is fit for a plot's name.
    named += [(key, key.replace("_", " "), f"training-{number}") for number, key in enumerate(more)]
    plots = (_curve(comparison, styles, *about) for about in named)
    return [plot._replace(main=i < len(known)) for i, plot in enumerate(plots) if plot is not None]


def _curve(comparison: Comparison, styles: Styles, key: str, title: str, name: str) -> Plot | None:
    curves = {}
    for method, seeds in comparison.training.items():
        lines = [line for rows in seeds.values() if (line := _with(rows, "step", key))]
        if lines and method in styles:
            curves[method] = _over_seeds(lines, key)
    if not curves:
        return None
    names = list(curves)

    def draw(axes: Axes) -> None:
        for method, (steps, mean, low, high) in curves.items():
            style = styles[method]
            axes.fill_between(steps, low, high, color=style.colour, alpha=0.18, linewidth=0)
            axes.plot(
                steps,
                mean,
                color=style.colour,
                linestyle=style.dashes,
                marker=style.marker,
                markevery=_apart(len(steps), names.index(method), len(names)),
            )
        axes.set(xlabel="optimiser step")
        axes.margins(x=0.02)

    data = [
        {"method": method, "step": step, "mean": mean, "lowest": low, "highest": high}
        for method, curve in curves.items()
        for step, mean, low, high in zip(*(column.tolist() for column in curve), strict=True)
    ]
    return Plot(name, title, CAPTIONS.get(key, ""), PANEL, names, draw, data)


def _apart(points: int, at: int, methods: int) -> list[int]:
    """Return where a curve of so many points bears its marker: a few times, and not where the other methods do."""
    gap = max(1, points // MARKS_PER_CURVE)
    return list(range(at * gap // methods, points, gap))


def _over_seeds(lines: Sequence[Sequence[Mapping[str, Any]]], key: str) -> tuple[np.ndarray, ...]:
    """Return steps, mean, minimum and maximum over seeds, between the steps that every seed has reached."""
    columns = [np.array(sorted((row["step"], row[key]) for row in line), dtype=np.float64).T for line in lines]
    first, last = max(c[0, 0] for c in columns), min(c[0, -1] for c in columns)
    steps = np.unique(np.concatenate([c[0] for c in columns]))
    steps = steps[(steps >= first) & (steps <= last)]
    values = np.stack([np.interp(steps, *c) for c in columns])
    return steps, values.mean(0), values.min(0), values.max(0)


def _with(rows: Iterable[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """Return the rows in which every key is a number."""
    return [row for row in rows if all(finite(row.get(key)) for key in keys)]
