"""What a distance from the reference buys: gold reward against KL, and gold and proxy reward against √KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preflab.eval.metrics.kl_to_reference import KL
from preflab.eval.metrics.proxy_reward import PROXY
from preflab.eval.metrics.reward import GOLD
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import BestOfN, Frontier, FrontierPoint, Law, LawPoint, OracleLine
from preflab.eval.report.figures import WIDE, Plot
from preflab.eval.report.labels import Label, place
from preflab.eval.report.style import LIGHT, Style
from preflab.eval.report.text import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Styles = Mapping[str, Style]


def frontier(comparison: Comparison, styles: Styles) -> Plot | None:
    """Gold reward against KL: the start, methods, the best attainable, best-of-n."""
    data = comparison.frontier
    points = [
        point
        for point in (data.points if data else ())
        if point.method in styles and finite(point.kl.mean) and finite(point.gold_reward.mean)
    ]
    if data is None or not points:
        return None
    start = _start(comparison)
    names = [name for name in styles if (start and name == start.method) or any(p.method == name for p in points)]

    def draw(axes: Axes) -> None:
        if data.oracle:
            _oracle(axes, data.oracle)
        _best_of_n(axes, data.best_of_n)
        for name in names:
            own = [point for point in (*points, *([start] if start else [])) if point.method == name]
            _settings(axes, sorted(own, key=lambda point: point.kl.mean), styles[name])
        if start:
            axes.axhline(start.gold_reward.mean, color=LIGHT["muted"], linewidth=0.8, linestyle=":")
        axes.set(xlabel="KL to the reference, nats per response", ylabel=GOLD.heading)
        axes.set_xlim(left=0)
        place(axes, _labels([*points, *([start] if start else [])]), WIDE, _lines(data, points))

    settings = ", ".join(dict.fromkeys(key for point in points for key in point.setting))
    caption = (
        "Each point is one setting, or a policy at a share of its way from the start, averaged over seeds; bands and "
        "bars are 95 % intervals. A method that lies above another at the same KL spends its distance from the "
        "reference better." + (f" Small figures beside points: {settings}." if settings else "")
    )
    return Plot("frontier", "Gold reward against KL", caption, WIDE, names, draw, _frontier_data(comparison, points))


def _start(comparison: Comparison) -> FrontierPoint | None:
    """Return where training starts as a point, if its gold reward is known."""
    name = comparison.baseline or ""
    figures = comparison.methods[name].figures if name in comparison.methods else {}
    gold, kl = figures.get(GOLD.key), figures.get(KL.key)
    if gold is None or kl is None or not (finite(gold.mean) and finite(kl.mean)):
        return None
    return FrontierPoint(
        method=name, setting={}, kl=kl, gold_reward=gold, proxy_reward=None, attainable=None, under_the_line=None
    )


def _settings(axes: Axes, own: Sequence[FrontierPoint], style: Style) -> None:
    """Draw one method's settings, joined by KL, with their intervals both ways."""
    kl, gold = bounds([point.kl for point in own]), bounds([point.gold_reward for point in own])
    axes.fill_between(kl[0], gold[1], gold[2], color=style.colour, alpha=0.15, linewidth=0)
    axes.hlines(gold[0], kl[1], kl[2], color=style.colour, alpha=0.5, linewidth=1)
    axes.vlines(kl[0], gold[1], gold[2], color=style.colour, alpha=0.5, linewidth=1)
    # Not cut at the axis, where a policy that did not move lies.
    axes.plot(kl[0], gold[0], color=style.colour, marker=style.marker, linestyle=style.dashes, clip_on=False, zorder=3)


def _labels(points: Sequence[FrontierPoint]) -> list[Label]:
    """Return a name for each method, at its configured setting or else its farthest, and every other one's setting."""
    named = {}
    for point in sorted(points, key=lambda point: (not point.setting, point.kl.mean)):
        named[point.method] = point  # the last one: of no setting, or of the largest KL
    places = [(point.kl.mean, point.gold_reward.mean) for point in points]
    names = [
        Label(*at, point.method, strong=True)
        for at, point in zip(places, points, strict=True)
        if named[point.method] is point
    ]
    rest = [
        Label(*at, ", ".join(map(_brief, point.setting.values())))
        for at, point in zip(places, points, strict=True)
        if point.setting and (named[point.method] is not point)
    ]
    return [*names, *rest]


def _lines(data: Frontier, points: Sequence[FrontierPoint]) -> list[list[tuple[float, float]]]:
    """Return the lines that are drawn: each method's, the best attainable, best-of-n."""
    own: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(points, key=lambda point: point.kl.mean):
        own.setdefault(point.method, []).append((point.kl.mean, point.gold_reward.mean))
    lines = [*own.values(), [(best.kl, best.gold_reward) for best in data.best_of_n]]
    if data.oracle:
        lines.append(list(zip(data.oracle.kl, data.oracle.reward, strict=True)))
    return [[at for at in line if all(map(finite, at))] for line in lines]


def _brief(value: Any) -> str:
    return f"{value:g}" if finite(value) else str(value)


def _frontier_data(comparison: Comparison, points: Sequence[FrontierPoint]) -> list[dict[str, Any]]:
    """Return every number of the figure: points, the start, the best attainable line, best-of-n."""

    def row(what: str, name: str, setting: str, kl: Figure, gold: Figure) -> dict[str, Any]:
        return {"what": what, "method": name, "setting": setting, **estimate("kl", kl), **estimate(GOLD.key, gold)}

    def exact(value: float) -> Figure:
        return Figure(value, math.nan, math.nan, 0)

    data, start = comparison.frontier, _start(comparison)
    assert data is not None
    rows = [row("start", start.method, "", start.kl, start.gold_reward)] if start else []
    for p in points:
        setting = ", ".join(f"{key} = {_brief(value)}" for key, value in p.setting.items())
        rows.append(row("setting", p.method, setting, p.kl, p.gold_reward))
    if data.oracle:
        line = zip(data.oracle.kl, data.oracle.reward, data.oracle.low, data.oracle.high, strict=True)
        rows += [row("best attainable", "", "", exact(kl), Figure(mean, low, high, 0)) for kl, mean, low, high in line]
    for best in data.best_of_n:
        gold = Figure(best.gold_reward, best.low, best.high, 0)
        rows.append(row("best of n (KL at most)", "", f"n = {best.n}", exact(best.kl), gold))
    return rows


def estimate(name: str, figure: Figure) -> dict[str, Any]:
    """Return a figure as three columns of a data file."""
    return {name: figure.mean, f"{name}_low": figure.low, f"{name}_high": figure.high}


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
        if name in styles and (rows := [_rewards(comparison, fit, p) for p in fit.points if finite(p.d)])
    }
    if not fits:
        return None
    started = [fit.reference_reward for fit, _ in fits.values() if finite(fit.reference_reward)]

    def draw(axes: Axes) -> None:
        for level in dict.fromkeys(started):
            axes.axhline(level, color=LIGHT["muted"], linewidth=0.8, linestyle=":")
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
        axes.set(xlabel="d = √KL to the reference", ylabel=GOLD.heading)

    caption = (
        "Points: gold reward with its 95 % interval, joined in the order of training (or of a sweep's KL). Thick: the "
        "law of Gao et al. (2022) fitted to them. Dotted: the proxy reward that was optimised, moved to where gold "
        "reward stands at the start (dotted level). Where the dotted line rises and the points fall, the proxy is "
        "being exploited."
    )
    data = [
        {"method": name, "step": p.step, "sqrt_kl": p.d, **estimate("kl", p.kl), **estimate(GOLD.key, p.gold),
         "proxy_reward_from_the_start": rows[4]}
        for name, (fit, drawn) in fits.items()
        for p, rows in zip((p for p in fit.points if finite(p.d)), drawn, strict=True)
    ]  # fmt: skip
    return Plot("overoptimisation", "Gold and proxy reward against √KL", caption, WIDE, list(fits), draw, data)


def _rewards(comparison: Comparison, fit: Law, point: LawPoint) -> list[float]:
    """Return d, gold reward and its interval, and proxy reward; NaN, which is not drawn, for what is missing.

    A reward model's zero means nothing: its reward is moved so that the start has the gold reward of the start.
    """
    gold, proxy = point.gold, math.nan if point.proxy is None else point.proxy.mean
    moved = proxy - _proxy_at_start(comparison, fit) + fit.reference_reward
    return [value if finite(value) else math.nan for value in (point.d, gold.mean, gold.low, gold.high, moved)]


def _proxy_at_start(comparison: Comparison, fit: Law) -> float:
    """Return the start's proxy reward: of the first point, if that is the start on the very prompts of the others."""
    first = fit.points[0]
    if fit.over == "training" and first.step == 0 and first.proxy is not None:
        return first.proxy.mean
    name = comparison.baseline or ""
    known = comparison.methods[name].figures.get(PROXY.key) if name in comparison.methods else None
    return math.nan if known is None else known.mean


def _law(fit: Law, d: np.ndarray) -> np.ndarray | None:
    """Gold reward by the law of Gao et al. (arXiv 2210.10760), section 3: that of the reference, and R(d)."""
    if fit.alpha is None or fit.beta is None or not (finite(fit.alpha.mean) and finite(fit.beta.mean)):
        return None
    start = fit.reference_reward if finite(fit.reference_reward) else 0.0
    bend = d if fit.law == "bon" else np.log(d)
    return start + d * (fit.alpha.mean - fit.beta.mean * bend)


def bounds(figures: Sequence[Figure]) -> np.ndarray:
    """Return mean, low and high, ``[3, N]``; an end that is no number is the mean."""
    rows = [[value if finite(value) else f.mean for value in (f.mean, f.low, f.high)] for f in figures]
    return np.array(rows, dtype=np.float64).T
