"""Prediction-powered inference: a win rate by many verdicts of a judge and a few of people.

The judge decided all N prompts, people a random part of them. With e = human − λ·judge on that part, the estimate is

    λ·mean of the judge's verdicts (all N) + mean of e (the n that people judged),

which is right on average whatever the judge's errors, for every λ (Angelopoulos et al. 2023, arXiv 2301.09633). The λ
that makes it most certain is the slope of human on judge's verdicts (PPI++, arXiv 2311.01453, section 6, for the N − n
others as unlabelled: their n/(n + N) is in the sum above already): near 1 for a judge that is worth as much as people,
0 for one that knows nothing, whose verdicts then count for nothing.

With few verdicts e is the same on all of them by chance, as often as not where a judge agrees with people on 19 of 20,
and then seems known to the last digit. One more verdict, a quarter of it at each corner of (human, judge) = (0, 0),
(0, 1), (1, 0), (1, 1), goes into interval and λ, not into the estimate: Agresti and Min's correction for matched
proportions (2005, Statistics in Medicine 24), at half its weight, which covers best (docs/human_verdicts.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, check_level
from preflab.eval.statistics.variance import scale, spread

Array = NDArray[np.float64]

FEWEST_VERDICTS = 10
"""Of people on the answers of one training seed, below which nothing is said of it."""

_CORNERS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_EXTRA = 1.0


class Corrected(NamedTuple):
    """A win rate by judge and people.

    Attributes:
        estimate: with its interval; `n` is the number of human verdicts behind it.
        weight: λ, how much the judge's verdicts count, 0 to 1.
    """

    estimate: Estimate
    weight: float


def prediction_powered(
    judged: ArrayLike,
    human: ArrayLike,
    *,
    alike: ArrayLike | None = None,
    models: ArrayLike | None = None,
    level: float = 0.95,
) -> Corrected:
    """Return how often the first of two methods answers better, as people would say, from a judge's verdicts and a few.

    People must have judged a random part of the prompts: then the interval is valid whatever the judge's errors. It is
    for other prompts and, where people judged several seeds' answers, for other seeds, by the two-way model of
    `eval.statistics.variance`: each seed has a rectifier (mean of e) of its own, since a judge may err otherwise on
    another seed's answers. With one seed it speaks of these trained models only.

    Args:
        judged: ``[S, N]`` the judge's verdicts, 0 to 1: 1 where the first method's answer is better, 0.5 for a tie.
        human: ``[S, N]`` those of people, NaN where nobody was asked.
        alike: ``[S, N]`` where both methods gave one answer: ties that nobody need be asked about.
        models: ``[S]`` numbers; rows with one number share a trained model and count as one. None: no two do.
        level: confidence level.

    Raises:
        ValueError: if shapes differ, values are no verdicts, or people judged less than `FEWEST_VERDICTS` answers of a
            seed.
    """
    check_level(level)
    table, asked, same = _checked(judged, human, alike)
    names = np.arange(len(table)) if models is None else np.asarray(models)
    weights = _weights(names)
    mean = float(weights @ _fitted(table, asked, same, 0.0).means)
    found = _fitted(table, asked, same, _EXTRA)
    # What a verdict shows of the whole: of the judge all of it, of people n times as much of a sample n times smaller.
    values = np.stack([found.values[names == name].mean(0) for name in np.unique(names)])
    parts = spread(values.mean(0), [values])
    more = weights**2 @ found.corners + found.slope_variance * (weights @ found.reach) ** 2
    error = scale(parts._replace(prompts=parts.prompts + more, prompts_df=found.df))
    half, centre = float(error.critical(level) * error.error), float(values.mean())
    low, high = max(min(centre - half, mean), 0.0), min(max(centre + half, mean), 1.0)
    return Corrected(Estimate(mean, low, high, int(np.isfinite(asked).sum())), found.slope)


class _Fit(NamedTuple):
    """What judge and people say of each row of games.

    Attributes:
        slope: λ.
        means: ``[S]`` the estimate of each row.
        values: ``[S, N]`` what each prompt shows; a row's mean is its estimate.
        corners: ``[S]`` what the added verdict adds to a row's variance.
        reach: ``[S]`` how far the judge's mean over all prompts lies from that over the judged ones: by how much an
            error of λ moves a row.
        slope_variance: of λ.
        df: degrees of freedom of e.
    """

    slope: float
    means: Array
    values: Array
    corners: Array
    reach: Array
    slope_variance: float
    df: int


def _fitted(judged: Array, human: Array, same: NDArray[np.bool_], extra: float) -> _Fit:
    """Fit λ over all rows and a rectifier for each, with `extra` verdicts shared out over rows and corners."""
    rows, prompts = judged.shape
    there, corner = np.isfinite(human), extra / (len(_CORNERS) * rows)
    known = np.where(there, human, 0.0)
    size = there.sum(1) + extra / rows
    own, other = ((there * x).sum(1) for x in (known, judged))
    own, other = ((x + corner * c.sum()) / size for x, c in zip((own, other), _CORNERS.T, strict=True))
    # Deviations from each row's means, of verdicts and of corners.
    y, j = there * (known - own[:, None]), there * (judged - other[:, None])
    at_y, at_j = (c - x[:, None] for c, x in zip(_CORNERS.T, (own, other), strict=True))
    squares = (j**2).sum() + corner * (at_j**2).sum()
    slope = float(np.clip(((j * y).sum() + corner * (at_j * at_y).sum()) / squares, 0.0, 1.0)) if squares > 0 else 0.0
    e, at_e = y - slope * j, at_y - slope * at_j
    df = max(int(there.sum()) - rows - 1, 1)
    # Means and slope were taken from the residuals.
    wider = (df + rows + 1) / df
    variance = ((e**2).sum() + corner * (at_e**2).sum()) / df
    differing = (~same).sum(1)
    everywhere = np.where(same, 0.0, judged).sum(1) / differing
    share, reach = differing / prompts, everywhere - other
    by_row = own + slope * reach
    sampled = (differing / size)[:, None] * np.sqrt(wider) * e
    values = np.where(same, 0.5, by_row[:, None] + slope * (judged - everywhere[:, None]))
    means = values.mean(1)
    values = values + sampled - sampled.mean(1, keepdims=True)
    corners = wider * corner * (at_e**2).sum(1) * (share / size) ** 2
    slope_variance = float(variance / squares) if squares > 0.0 else 0.0
    return _Fit(slope, means, values, corners, share * reach, slope_variance, df)


def _weights(names: NDArray[np.int64]) -> Array:
    """Return what each row counts ``[S]``: all numbers alike, and within one all its rows."""
    _, at, count = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(count) * count[at]), dtype=np.float64)


def _checked(judged: ArrayLike, human: ArrayLike, alike: ArrayLike | None) -> tuple[Array, Array, NDArray[np.bool_]]:
    table, asked = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (judged, human))
    same = np.zeros(table.shape, dtype=bool) if alike is None else np.atleast_2d(np.asarray(alike, dtype=bool))
    if not table.shape == asked.shape == same.shape or table.ndim != 2:
        raise ValueError(
            f"verdicts have shapes {table.shape} and {asked.shape}, alike {same.shape}; expected one, [S, N]"
        )
    asked = np.where(same, np.nan, asked)
    for name, values in (("judged", table), ("human", asked[np.isfinite(asked)])):
        if not ((values >= 0.0) & (values <= 1.0)).all():
            raise ValueError(f"{name} holds {values[~((values >= 0.0) & (values <= 1.0))][0]}; verdicts lie in [0, 1]")
    if (few := np.isfinite(asked).sum(1)).min() < FEWEST_VERDICTS:
        raise ValueError(
            f"people judged {few.min()} answers of seed {few.argmin()}; {FEWEST_VERDICTS} are the fewest: leave it out"
        )
    return table, asked, same
