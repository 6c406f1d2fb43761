"""Methods compared at equal KL: each one's settings joined to a curve, and the curves read at shared KLs.

A curve is linear in d = sqrt(KL) between neighbouring settings. Gold reward is nearly so: the oracle line is exactly
for normally distributed rewards, and Gao et al.'s laws (arXiv 2210.10760) are, but for a slow factor. A monotone
spline would not do: over-optimised methods bend down; and a spline's slope at a setting rests on the noise of the
settings around it. What is read between two settings rests on those two. Nothing is extrapolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from preflab.eval.frontier.tables import Array, as_table
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import EqualKl, Matched, MatchedDifference
from preflab.eval.statistics import compare, holm, interval, verdict

LEVEL = 0.95


class Point(NamedTuple):
    """One setting of one method; tables ``[S, N]`` (seeds x prompts) or ``[N]``, of the same prompts everywhere.

    Attributes:
        method: its name.
        setting: what was set, for example ``{"beta": 0.1}``.
        kl: KL(π‖π_ref), nats.
        gold_reward: the judge's scores.
        proxy_reward: the training reward model's, where there is one.
    """

    method: str
    setting: Mapping[str, Any]
    kl: ArrayLike
    gold_reward: ArrayLike
    proxy_reward: ArrayLike | None = None


class _Path(NamedTuple):
    """P >= 2 settings of a method with one training seed, by mean KL.

    Attributes:
        d: sqrt(KL), ``[P]``.
        kl: ``[P, N]``.
        reward: ``[P, N]``.
    """

    d: Array
    kl: Array
    reward: Array

    def read(self, d: float) -> Array:
        """Return ``[N]``: what each prompt contributes to the reward at d, which is their mean.

        With a share t of the way between settings i and j, the reward is (1 − t) R_i + t R_j, and moving a setting
        itself by δ moves it against the slope, by −(1 − t) δ slope or −t δ slope.
        """
        j = int(np.searchsorted(self.d, d).clip(1, len(self.d) - 1))
        i = j - 1
        t = (d - self.d[i]) / (self.d[j] - self.d[i])
        means = self.reward.mean(1)
        slope = (means[j] - means[i]) / (self.d[j] - self.d[i])
        found = np.zeros(self.reward.shape[1])
        for place, share in ((i, 1.0 - t), (j, t)):
            found += share * (self.reward[place] - slope * _moves(self.d[place], self.kl[place]))
        return found

    @property
    def start(self) -> float:
        """The largest d that the first setting may truly have."""
        return math.sqrt(max(0.0, interval(self.kl[0], rate=False).high))

    @property
    def end(self) -> float:
        """The smallest d that the last setting may truly have."""
        return math.sqrt(max(0.0, interval(self.kl[-1], rate=False).low))


class _Curve(NamedTuple):
    """A method's paths, one a training seed: each seed is read at the same KL, wherever its own settings lie."""

    paths: Sequence[_Path]

    def read(self, d: float) -> Array:
        """Return a table ``[S, N]``: what each value contributes to the reward at d, which is their mean."""
        return np.stack([path.read(d) for path in self.paths])

    @property
    def start(self) -> float:
        """Where every seed's path has begun."""
        return max(path.start for path in self.paths)

    @property
    def end(self) -> float:
        """Where the first of them ends."""
        return min(path.end for path in self.paths)


def matched(points: Sequence[Point], *, count: int = 5) -> list[Matched]:
    """Return the gold reward of every method at KLs that all methods reach.

    A method needs two settings at different KLs to have a curve; one with fewer is left out. The KLs lie inside
    every method's own range, its ends' intervals included. Intervals know that the KL of a setting is measured too.

    Args:
        points: of all methods. Where settings of one differ in their number of seeds, the first that all have count.
        count: how many KLs, evenly spaced in sqrt(KL).

    Returns:
        No rows where fewer than two methods have curves, or no KL is common to all that have.

    Raises:
        ValueError: if tables are not of the same prompts, or a point's are not of the same seeds.
    """
    curves = _curves(points)
    if len(curves) < 2:
        return []
    return [
        Matched(kl=d**2, method=name, gold_reward=Figure.of(interval(curve.read(d), rate=False)))
        for d in _shared(list(curves.values()), count)
        for name, curve in curves.items()
    ]


def matched_differences(points: Sequence[Point], *, count: int = 5, paired: bool = False) -> list[MatchedDifference]:
    """Return the difference in gold reward, first minus second, of every two methods at KLs both reach.

    As `matched`, but with the KLs that the two have in common, whatever a third reaches. Prompts pair the methods, and
    `paired` replications too; ``p`` is not corrected for the number of rows.
    """
    pairs = itertools.combinations(_curves(points).items(), 2)
    return [row for one, other in pairs for row in _band(one, other, _shared([one[1], other[1]], count), paired)]


def equal_kl(points: Sequence[Point], *, count: int = 8, paired: bool = False) -> list[EqualKl]:
    """Return every two methods over the KLs that both reach: one test of the mean difference, and a band around it.

    The mean over the range is one number, so that no KL is picked. The intervals of the band hold all at once.

    Args:
        points: as of `matched`.
        count: how many KLs, evenly spaced in sqrt(KL); where both begin at the reference itself, whose reward is one,
            it is left out.
        paired: whether seed s of one method shares its replication with seed s of another.
    """
    met = []
    for one, other in itertools.combinations(_curves(points).items(), 2):
        if places := [d for d in _shared([one[1], other[1]], count + 1) if d > 0.0][-count:]:
            means = [np.mean([curve.read(d) for d in places], axis=0) for _, curve in (one, other)]
            met.append((one, other, places, compare(*means, paired=paired)))
    adjusted = holm([found.p for *_, found in met])
    return [
        EqualKl(
            first=one[0],
            second=other[0],
            low_kl=places[0] ** 2,
            high_kl=places[-1] ** 2,
            difference=Figure.of(found.estimate),
            p=found.p,
            p_adjusted=float(p),
            verdict=verdict(found.estimate.mean, float(p)),
            band=tuple(_band(one, other, places, paired, level=1.0 - (1.0 - LEVEL) / len(places))),
        )
        for (one, other, places, found), p in zip(met, adjusted, strict=True)
    ]


def _band(
    one: tuple[str, _Curve], other: tuple[str, _Curve], places: Sequence[float], paired: bool, level: float = LEVEL
) -> list[MatchedDifference]:
    """Return the difference of two methods at each of some d."""
    rows = []
    for d in places:
        found = compare(one[1].read(d), other[1].read(d), level=level, paired=paired)
        difference = Figure.of(found.estimate)
        rows.append(MatchedDifference(kl=d**2, first=one[0], second=other[0], difference=difference, p=found.p))
    return rows


def _curves(points: Sequence[Point]) -> dict[str, _Curve]:
    """Return the curve of every method that has one, in the order of first appearance."""
    if not points:
        return {}
    prompts = as_table(points[0].kl, "kl").shape[1]
    curves = {}
    for name in dict.fromkeys(point.method for point in points):
        own = [point for point in points if point.method == name]
        kls = [as_table(point.kl, f"kl of {name}", prompts) for point in own]
        rewards = [as_table(point.gold_reward, f"gold_reward of {name}", prompts) for point in own]
        if any(kl.shape != reward.shape for kl, reward in zip(kls, rewards, strict=True)):
            raise ValueError(f"kl and gold_reward of a setting of {name} differ in their number of seeds")
        seeds = min(len(table) for table in kls)
        paths = [_path(*([table[seed] for table in tables] for tables in (kls, rewards))) for seed in range(seeds)]
        if all(len(path.d) > 1 for path in paths):
            curves[name] = _Curve(paths)
    return curves


def _path(kls: Sequence[Array], rewards: Sequence[Array]) -> _Path:
    """Return the path through settings, ``[N]`` each; of those at one KL, the first stands for the place."""
    d, first = np.unique([math.sqrt(max(0.0, kl.mean())) for kl in kls], return_index=True)
    return _Path(d, np.stack(kls)[first], np.stack(rewards)[first])


def _shared(curves: Sequence[_Curve], count: int) -> list[float]:
    """Return `count` places d inside all curves; none where they do not meet."""
    start, end = max(curve.start for curve in curves), min(curve.end for curve in curves)
    return [float(d) for d in np.linspace(start, end, count)] if start < end else []


def _moves(d: float, kl: Array) -> Array:
    """Return by how much each KL ``[N]`` moves d = sqrt(KL) of their mean; a d of 0 is the reference, and stays."""
    return (kl - kl.mean()) / (2.0 * d) if d > 0 else np.zeros_like(kl)
