"""Plots of how a method was come by: from how many preferences, and after how many trials."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
from preflab.eval.metrics.reward import GOLD
from preflab.eval.metrics.win_rate import WIN_RATE
from preflab.eval.records.comparison import Comparison
from preflab.eval.report.figures import PANEL, WIDE, Plot
from preflab.eval.report.style import LIGHT, Style
from preflab.eval.report.text import finite
from preflab.eval.report.tradeoffs import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = (GOLD, WIN_RATE, HELDOUT_ACCURACY)
"""What a learning curve is of: the first of these that is known of every point."""


def learning(comparison: Comparison, styles: Mapping[str, Style]) -> Plot | None:
    """What methods make of fewer preferences, each with its interval as a band."""
    known = [point for point in comparison.learning if finite(point.preferences) and point.preferences > 0]
    points = [point for point in known if point.method in styles]
    measure = next((m for m in SHOWN if points and all(vars(point)[m.key] for point in points)), None)
    if measure is None:
        return None
    names = list(dict.fromkeys(point.method for point in points))

    def draw(axes: Axes) -> None:
        for name in names:
            own, style = [point for point in points if point.method == name], styles[name]
            pairs = [point.preferences for point in own]
            figures = [vars(point)[measure.key] for point in own]
            mean, low, high = np.array([(f.mean, f.low, f.high) for f in figures], dtype=np.float64).T
            axes.fill_between(pairs, low, high, color=style.colour, alpha=0.15, linewidth=0)
            axes.plot(pairs, mean, color=style.colour, marker=style.marker, linestyle=style.dashes)
        origin = comparison.methods.get(comparison.baseline or "")
        start = origin.figures.get(measure.key) if origin else None
        if start and finite(start.mean):
            axes.axhline(start.mean, color=LIGHT["muted"], linewidth=1, linestyle="--")
        axes.set(xlabel="preferences to learn from", ylabel=measure.heading, xscale="log")
        # Matplotlib would write powers of ten as mathematics, which is off.
        counts = sorted({round(point.preferences) for point in points})
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()

    caption = (
        "Every seed learns from parts of its own, small ones inside larger ones, and so do reward models and starts "
        "trained for a method. Bands: 95 % intervals over seeds and prompts. Dashed: the start on all preferences."
    )
    data = [
        {"method": p.method, "preferences": p.preferences, **estimate(measure.key, vars(p)[measure.key])}
        for p in points
    ]
    return Plot("learning", f"{measure.heading} against preferences".capitalize(), caption, WIDE, names, draw, data)


def tuning(comparison: Comparison, styles: Mapping[str, Style]) -> Plot | None:
    """The best objective so far against the number of trials."""
    curves = {}
    for name, tuned in comparison.tuning.items():
        found = [trial.objective if finite(trial.objective) else -np.inf for trial in tuned.trials]
        if name in styles and any(map(finite, found)):
            curves[name] = (np.arange(1, len(found) + 1), np.array(found), np.array(list(accumulate(found, max))))
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for name, (number, found, best) in curves.items():
            style, known = styles[name], np.isfinite(best)
            axes.step(number[known], best[known], where="post", color=style.colour, linestyle=style.dashes)
            known = np.isfinite(found)
            axes.plot(number[known], found[known], color=style.colour, marker=style.marker, linestyle="", alpha=0.6)
        axes.set(xlabel="trials", ylabel="objective on prompts set aside")
        axes.locator_params(axis="x", integer=True)

    caption = "Points are trials, the first at the configured setting; the line is the best of them so far."
    data = [
        {"method": name, "trial": trial, "objective": objective, "best_so_far": top}
        for name, curve in curves.items()
        for trial, objective, top in zip(*(column.tolist() for column in curve), strict=True)
    ]
    return Plot("tuning", "Best so far against trials", caption, PANEL, list(curves), draw, data)
