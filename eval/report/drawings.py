"""What each plot shows: from the comparison's numbers to lines on axes. Null and missing values are not drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import BestOfN, Law, LawPoint, OracleLine
from preflab.eval.report.curves import learning, tuning
from preflab.eval.report.figures import PANEL, WIDE, Plot
from preflab.eval.report.style import LIGHT, Style, method_styles
from preflab.eval.report.text import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Styles = Mapping[str, Style]
CURVES = (
    ("reward", "reward (training)"),
    ("kl", "log π/π_ref of training answers, nats"),
    ("loss", "loss"),
    ("entropy", "entropy, nats per token"),
    ("response_length", "response length, tokens"),
    ("accuracy", "accuracy on training pairs"),
)


def plots(comparison: Comparison) -> list[Plot]:
    """Return every plot that the comparison has data for."""
    styles = method_styles(comparison)
    drawn = (frontier, overoptimisation, learning, tuning, reliability, length_bias)
    single = (make(comparison, styles) for make in drawn)
    return [*(plot for plot in single if plot is not None), *training(comparison, styles)]


def frontier(comparison: Comparison, styles: Styles) -> Plot | None:
    """Gold reward against KL: methods, the best attainable, best-of-n."""
    data = comparison.frontier
    points = [
        point
        for point in (data.points if data else ())
        if point.method in styles and finite(point.kl.mean) and finite(point.gold_reward.mean)
    ]
    if data is None or not points:
        return None
    names = [name for name in styles if any(point.method == name for point in points)]

    def draw(axes: Axes) -> None:
        if data.oracle:
            _oracle(axes, data.oracle)
        _best_of_n(axes, data.best_of_n)
        for name in names:
            own = sorted((point for point in points if point.method == name), key=lambda point: point.kl.mean)
            kl, gold = _bounds([point.kl for point in own]), _bounds([point.gold_reward for point in own])
            style = styles[name]
            axes.fill_between(kl[0], gold[1], gold[2], color=style.colour, alpha=0.15, linewidth=0)
            axes.hlines(gold[0], kl[1], kl[2], color=style.colour, alpha=0.5, linewidth=1)
            axes.vlines(kl[0], gold[1], gold[2], color=style.colour, alpha=0.5, linewidth=1)
            # Not cut at the axis, where a policy that did not move lies.
            axes.plot(
                kl[0], gold[0], color=style.colour, marker=style.marker, linestyle=style.dashes, clip_on=False, zorder=3
            )
        axes.set(xlabel="KL to reference, nats", ylabel="gold reward")
        axes.set_xlim(left=0)

    caption = (
        "Each point is one setting, or a policy at a share of its way from the start, averaged over seeds; bands and "
        "bars are 95 % intervals. A method that lies above another at the same KL spends its distance from the "
        "reference better."
    )
    return Plot("frontier", "Gold reward against KL", caption, WIDE, names, draw)


def _oracle(axes: Axes, line: OracleLine) -> None:
    limit = line.trusted_kl if finite(line.trusted_kl) else math.inf
    columns = zip(line.kl, line.reward, line.low, line.high, strict=True)
    rows = [row for row in columns if all(map(finite, row)) and row[0] <= limit]
    if len(rows) < 2:
        return
    kl, reward, low, high = np.array(rows, dtype=np.float64).T
    axes.fill_between(kl, low, high, color=LIGHT["ink"], alpha=0.1, linewidth=0)
    axes.plot(kl, reward, color=LIGHT["ink"])
    axes.annotate("best attainable", (kl[-1], reward[-1]), xytext=(0, 7), textcoords="offset points", ha="right")
    if kl[-1] < max(filter(finite, line.kl)):  # the line was cut
        axes.plot(kl[-1:], reward[-1:], color=LIGHT["ink"], marker="|", markersize=11)


def _best_of_n(axes: Axes, points: Sequence[BestOfN]) -> None:
    drawn = [point for point in points if finite(point.kl) and finite(point.gold_reward)]
    if not drawn:
        return
    kl, gold = [point.kl for point in drawn], [point.gold_reward for point in drawn]
    axes.plot(kl, gold, color=LIGHT["muted"], linestyle="--", linewidth=1.3, marker=".")
    axes.annotate(
        f"best of {drawn[-1].n}", (kl[-1], gold[-1]), xytext=(6, -3), textcoords="offset points", color=LIGHT["muted"]
    )


def overoptimisation(comparison: Comparison, styles: Styles) -> Plot | None:
    """Gold and proxy reward against d = √KL, and the fitted laws."""
    fits = {
        name: (fit, rows)
        for name, fit in (comparison.overoptimisation or {}).items()
        if name in styles and (rows := [_rewards(point) for point in fit.points if finite(point.d)])
    }
    if not fits:
        return None

    def draw(axes: Axes) -> None:
        for name, (fit, rows) in fits.items():
            colour, marker = styles[name].colour, styles[name].marker
            d, gold, low, high, proxy = np.array(rows, dtype=np.float64).T
            axes.plot(d, proxy, color=colour, linestyle=":", linewidth=1.3)
            axes.vlines(d, low, high, color=colour, alpha=0.4, linewidth=1)
            # Joined as they came: a policy may turn back towards the reference.
            axes.plot(d, gold, color=colour, marker=marker, markersize=4, linewidth=0.6, alpha=0.7)
            at = np.linspace(max(1e-3, d.min()), d.max(), 80)
            law = _law(fit, at)
            if law is not None:
                axes.plot(at, law, color=colour)
        axes.set(xlabel="d = √KL to reference", ylabel="reward")

    caption = (
        "Points: gold reward with its 95 % interval, joined in the order of training (or of a sweep's KL). Thick: the "
        "law of Gao et al. (2022) fitted to them. Dotted: the proxy reward that was optimised. Where the dotted line "
        "rises and the points fall, the proxy is being exploited."
    )
    return Plot("overoptimisation", "Gold and proxy reward against √KL", caption, WIDE, list(fits), draw)


def _rewards(point: LawPoint) -> list[float]:
    """Return d, gold reward and its interval, and proxy reward; NaN, which is not drawn, for what is missing."""
    gold, proxy = point.gold, math.nan if point.proxy is None else point.proxy.mean
    return [value if finite(value) else math.nan for value in (point.d, gold.mean, gold.low, gold.high, proxy)]


def _law(fit: Law, d: np.ndarray) -> np.ndarray | None:
    """Gold reward by the law of Gao et al. (arXiv 2210.10760), section 3: that of the reference, and R(d)."""
    if fit.alpha is None or fit.beta is None or not (finite(fit.alpha.mean) and finite(fit.beta.mean)):
        return None
    start = fit.reference_reward if finite(fit.reference_reward) else 0.0
    bend = d if fit.law == "bon" else np.log(d)
    return start + d * (fit.alpha.mean - fit.beta.mean * bend)


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
    return Plot("reliability", "Reliability", caption, PANEL, list(bins), draw)


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
            accuracy, low, high = _bounds([row.accuracy for row in rows])
            axes.vlines(spots, low, high, color=style.colour, alpha=0.5, linewidth=1)
            axes.plot(spots, accuracy, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=1.3)
        axes.set_xticks(range(len(order)), [_range(*ends) for ends in order], rotation=30, ha="right")
        axes.set(xlabel="chosen minus rejected, tokens", ylabel="accuracy")

    caption = (
        "A flat line is a model that does not mind length. Rising to the right: it prefers what is longer, whether or "
        "not people do. Dashed: chance. Bars: 95 % intervals."
    )
    return Plot("length-bias", "Accuracy by difference in length", caption, PANEL, list(buckets), draw)


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

    def draw(axes: Axes) -> None:
        for method, (steps, mean, low, high) in curves.items():
            style = styles[method]
            axes.fill_between(steps, low, high, color=style.colour, alpha=0.18, linewidth=0)
            axes.plot(
                steps,
                mean,
                color=style.colour,
                linestyle=style.dashes,
                marker=style.marker if len(steps) == 1 else None,
            )
        axes.set(xlabel="optimiser step")
        axes.margins(x=0.02)

    caption = "Losses of different methods are not on one scale." if key == "loss" else ""
    return Plot(name, title, caption, PANEL, list(curves), draw)


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


def _bounds(figures: Sequence[Figure]) -> np.ndarray:
    """Return mean, low and high, ``[3, N]``; an end that is no number is the mean."""
    rows = [[value if finite(value) else f.mean for value in (f.mean, f.low, f.high)] for f in figures]
    return np.array(rows, dtype=np.float64).T
