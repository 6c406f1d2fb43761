"""What each plot shows: from the comparison's numbers to lines on axes. Null and missing values are not drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.report.figures import PANEL, WIDE, Plot
from eval.report.style import LIGHT, Style, method_styles
from eval.report.text import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Comparison = Mapping[str, Any]
Styles = Mapping[str, Style]
CURVES = (
    ("reward", "reward (training)"),
    ("kl", "KL to reference, nats"),
    ("loss", "loss"),
    ("entropy", "entropy, nats per token"),
    ("response_length", "response length, tokens"),
    ("accuracy", "accuracy on training pairs"),
)


def plots(comparison: Comparison) -> list[Plot]:
    """Return every plot that the comparison has data for."""
    styles = method_styles(comparison)
    single = (make(comparison, styles) for make in (frontier, overoptimisation, reliability, length_bias))
    return [*(plot for plot in single if plot is not None), *training(comparison, styles)]


def frontier(comparison: Comparison, styles: Styles) -> Plot | None:
    """Gold reward against KL: methods, the best attainable, best-of-n."""
    data = comparison.get("frontier") or {}
    points = [
        point
        for point in data.get("points") or []
        if point.get("method") in styles
        and all(finite((point.get(k) or {}).get("mean")) for k in ("kl", "gold_reward"))
    ]
    if not points:
        return None
    names = [name for name in styles if any(point["method"] == name for point in points)]

    def draw(axes: Axes) -> None:
        _oracle(axes, data.get("oracle") or {})
        _best_of_n(axes, _with(data.get("best_of_n"), "kl", "gold_reward"))
        for name in names:
            own = sorted((p for p in points if p["method"] == name), key=lambda p: p["kl"]["mean"])
            kl, gold = (_bounds([point[key] for point in own]) for key in ("kl", "gold_reward"))
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
        "Each point is one setting, averaged over seeds; bands and bars are 95 % intervals. A method that lies above "
        "another at the same KL spends its distance from the reference better."
    )
    return Plot("frontier", "Gold reward against KL", caption, WIDE, names, draw)


def _oracle(axes: Axes, oracle: Mapping[str, Any]) -> None:
    columns = [oracle.get(key) or [] for key in ("kl", "reward", "low", "high")]
    trusted = oracle.get("trusted_kl")
    limit = trusted if finite(trusted) else math.inf
    rows = [row for row in zip(*columns, strict=False) if all(map(finite, row)) and row[0] <= limit]
    if len(rows) < 2:
        return
    kl, reward, low, high = np.array(rows, dtype=np.float64).T
    axes.fill_between(kl, low, high, color=LIGHT["ink"], alpha=0.1, linewidth=0)
    axes.plot(kl, reward, color=LIGHT["ink"])
    axes.annotate("best attainable", (kl[-1], reward[-1]), xytext=(0, 7), textcoords="offset points", ha="right")
    if kl[-1] < max(filter(finite, columns[0])):  # the line was cut
        axes.plot(kl[-1:], reward[-1:], color=LIGHT["ink"], marker="|", markersize=11)


def _best_of_n(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    if not points:
        return
    kl, gold = ([p[key] for p in points] for key in ("kl", "gold_reward"))
    axes.plot(kl, gold, color=LIGHT["muted"], linestyle="--", linewidth=1.3, marker=".")
    text = f"best of {points[-1].get('n')}"
    axes.annotate(text, (kl[-1], gold[-1]), xytext=(6, -3), textcoords="offset points", color=LIGHT["muted"])


def overoptimisation(comparison: Comparison, styles: Styles) -> Plot | None:
    """Gold and proxy reward against d = √KL, and the fitted laws."""
    fits = {
        name: (fit, rows)
        for name, fit in (comparison.get("overoptimisation") or {}).items()
        if name in styles and (rows := [_rewards(p) for p in (fit or {}).get("points") or [] if finite(p.get("d"))])
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


def _rewards(point: Mapping[str, Any]) -> list[float]:
    """Return d, gold reward and its interval, and proxy reward; NaN, which is not drawn, for what is missing."""
    gold, proxy = point.get("gold") or {}, point.get("proxy") or {}
    values = (point["d"], gold.get("mean"), gold.get("low"), gold.get("high"), proxy.get("mean"))
    return [value if finite(value) else math.nan for value in values]


def _law(fit: Mapping[str, Any], d: np.ndarray) -> np.ndarray | None:
    """Gold reward by the law of Gao et al. (arXiv 2210.10760), section 3: that of the reference, and R(d)."""
    alpha, beta = ((fit.get(key) or {}).get("mean") for key in ("alpha", "beta"))
    if not (finite(alpha) and finite(beta)):
        return None
    start = fit.get("reference_reward")
    bend = d if fit.get("law") == "bon" else np.log(d)
    return (start if finite(start) else 0.0) + d * (alpha - beta * bend)


def reliability(comparison: Comparison, styles: Styles) -> Plot | None:
    """How often the preferred response was chosen, against how sure the model was."""
    bins = _preference_rows(comparison, styles, "reliability", ("confidence", "accuracy"))
    if not bins:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=LIGHT["muted"], linewidth=1, linestyle="--")
        for name, rows in bins.items():
            style = styles[name]
            x, y = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
            ends = [(row.get("low"), row.get("high")) for row in rows]
            drawn = [(at, *pair) for at, pair in zip(x, ends, strict=True) if all(map(finite, pair))]
            if drawn:
                axes.vlines(*zip(*drawn, strict=True), color=style.colour, alpha=0.5, linewidth=1)
            axes.plot(x, y, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=1.3)
        axes.set(xlabel="confidence", ylabel="accuracy")

    caption = (
        "On the dashed line confidence is accuracy. Below it a model is surer than it is right. Bars: 95 % intervals."
    )
    return Plot("reliability", "Reliability", caption, PANEL, list(bins), draw)


def length_bias(comparison: Comparison, styles: Styles) -> Plot | None:
    """Accuracy by how much longer the chosen response is."""
    methods = comparison.get("methods") or {}
    found = {name: ((methods.get(name) or {}).get("preferences") or {}).get("length_buckets") for name in styles}
    known = {n: [row for row in rows or [] if finite(_accuracy(row).get("mean"))] for n, rows in found.items()}
    buckets = {name: rows for name, rows in known.items() if rows}
    if not buckets:
        return None
    keys = {(row.get("low"), row.get("high")) for rows in buckets.values() for row in rows}
    order = sorted(
        keys, key=lambda ends: (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])
    )
    place = {ends: i for i, ends in enumerate(order)}

    def draw(axes: Axes) -> None:
        axes.axhline(0.5, color=LIGHT["muted"], linewidth=1, linestyle="--")
        for name, rows in buckets.items():
            style = styles[name]
            rows = sorted(rows, key=lambda row: place[row.get("low"), row.get("high")])
            spots = [place[row.get("low"), row.get("high")] for row in rows]
            accuracy, low, high = _bounds([_accuracy(row) for row in rows])
            axes.vlines(spots, low, high, color=style.colour, alpha=0.5, linewidth=1)
            axes.plot(spots, accuracy, color=style.colour, marker=style.marker, linestyle=style.dashes, linewidth=1.3)
        axes.set_xticks(range(len(order)), [_range(*ends) for ends in order], rotation=30, ha="right")
        axes.set(xlabel="chosen minus rejected, tokens", ylabel="accuracy")

    caption = (
        "A flat line is a model that does not mind length. Rising to the right: it prefers what is longer, whether or "
        "not people do. Dashed: chance. Bars: 95 % intervals."
    )
    return Plot("length-bias", "Accuracy by difference in length", caption, PANEL, list(buckets), draw)


def _accuracy(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the estimate of a bucket's accuracy; older comparisons give a bare number."""
    found = row.get("accuracy")
    return found if isinstance(found, Mapping) else {"mean": found}


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
    runs = [rows for seeds in (comparison.get("training") or {}).values() for rows in (seeds or {}).values()]
    more = dict.fromkeys(key for rows in runs for row in rows or () for key in row if key not in ("step", *known))
    named = [(key, title, f"training-{key.replace('_', '-')}") for key, title in CURVES]
    # Whoever wrote a method named its metrics; a number is fit for a plot's name.
    named += [(key, key.replace("_", " "), f"training-{number}") for number, key in enumerate(more)]
    plots = (_curve(comparison, styles, *about) for about in named)
    return [plot._replace(main=i < len(known)) for i, plot in enumerate(plots) if plot is not None]


def _curve(comparison: Comparison, styles: Styles, key: str, title: str, name: str) -> Plot | None:
    curves = {}
    for method, seeds in (comparison.get("training") or {}).items():
        lines = [_with(rows, "step", key) for rows in (seeds or {}).values()]
        lines = [line for line in lines if line]
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


def _preference_rows(
    comparison: Comparison, styles: Styles, table: str, keys: Sequence[str]
) -> dict[str, list[Mapping[str, Any]]]:
    methods = comparison.get("methods") or {}
    rows = {name: _with(((methods.get(name) or {}).get("preferences") or {}).get(table), *keys) for name in styles}
    return {name: found for name, found in rows.items() if found}


def _with(rows: Iterable[Mapping[str, Any]] | None, *keys: str) -> list[Mapping[str, Any]]:
    """Return the rows in which every key is a number."""
    return [row for row in rows or [] if all(finite(row.get(key)) for key in keys)]


def _bounds(estimates: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return mean, low and high, ``[3, N]``; an end that is missing is the mean."""
    rows = [[e[key] if finite(e.get(key)) else e["mean"] for key in ("mean", "low", "high")] for e in estimates]
    return np.array(rows, dtype=np.float64).T
