"""Means with intervals, for values that prompts and training seeds have in common."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.variance import Scale, Spread, scale, spread

Array = NDArray[np.float64]

_ROUNDING = 1e-9  # of an error: below this share of the prompts' own, what is left is the rounding of float64


class Estimate(NamedTuple):
    """A mean and its confidence interval.

    Attributes:
        mean: plain mean of all values.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of values behind it, prompts x seeds.
    """

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return the estimate as JSON-ready values."""
        return self._asdict()


def interval(
    values: ArrayLike, *, level: float = 0.95, rate: bool | None = None, groups: ArrayLike | None = None
) -> Estimate:
    """Return the mean of `values` with an interval for other prompts and, where there are several, other seeds.

    Two-way random effects: all seeds answer the same prompts, and seeds differ among themselves; see
    `eval.statistics.variance`. With one seed it is the t interval over prompts, and speaks of this trained model
    only. With two or three seeds the spread between them is known from one or two differences, and the interval
    is as wide as that demands.

    A rate (values 0, 0.5 for a tie, 1) gets Wilson's interval for as many independent trials as would have the
    same standard error: it stays within [0, 1] and keeps its coverage near the ends. Where all values are equal
    there is no spread to go by, and 20 wins of 20 are compatible with a true rate below one: then it is that of
    `unanimous` for the N prompts, because seeds that share prompts add no independent ones.

    Equal values that are no rate show no spread, and nothing bounds them: the interval is the value itself, which is
    right of the KL of a policy that is its reference, and of other quantities says that nobody knows. One prompt, with
    nothing but its own value, leaves every mean of others open: from minus to plus infinity.

    Values that share a prompt, such as several pairs made of one ranking, are not independent: with `groups` the
    interval is for other prompts, however many values each has; see `clustered`.

    Args:
        values: ``[S, N]`` (S training seeds x N prompts) or ``[N]``; finite.
        level: confidence level, in (0, 1).
        rate: whether the values are a rate. By default only where they are all 0, all 0.5 or all 1; pass False
            for quantities such as a KL, which may well be 0 on every prompt.
        groups: ``[N]`` which prompt each value is of, whole numbers; None: each of its own.

    Raises:
        ValueError: if there are no values, one is not finite, or level or the number of groups is out of range.
    """
    table = as_table(values)
    check_level(level)
    clusters = table if groups is None else clustered(table, groups)
    mean, first = float(table.mean()), float(table.flat[0])
    if (table == first).all():
        if rate is None:
            rate = first in (0.0, 0.5, 1.0)
        low, high = unanimous(first, clusters.shape[1], level) if rate else (first, first)
        if not rate and table.shape[1] == 1:
            low, high = -math.inf, math.inf
        return Estimate(first, low, high, table.size)
    if rate and clusters is not table and np.ptp(clusters) < 1e-12:
        # As many right on every prompt: no spread to go by here either.
        return Estimate(mean, *wilson(mean, clusters.shape[1], level), table.size)
    found = known_scale(spread(clusters.mean(0), [clusters]))
    if rate and 0.0 < mean < 1.0:
        ends = rate_interval(table.mean(), found, level)
        return Estimate(mean, float(ends[0]), float(ends[1]), table.size)
    half = float(found.critical(level) * found.error)
    return Estimate(mean, mean - half, mean + half, table.size)


def known_scale(found: Spread) -> Scale:
    """Return the scale of a mean as `scale` does; where the seeds' means coincide, that of the prompts alone.

    The means of two or three seeds may be one number, as shares of few games are. The seeds' part, which counts the
    rest as well, is then 0, and nothing may be taken off the prompts' part for it: the error would be a difference of
    two mean squares that is as often 0 as not, and two equal methods with two seeds of 100 games each would be told
    apart with a p of 0 in one comparison of forty. No batch axes.
    """
    alone = np.maximum(found.prompts, found.rest)
    if len(found.seeds) and found.seeds.sum() <= _ROUNDING**2 * alone:
        return scale(found._replace(seeds=np.zeros_like(found.seeds), prompts=alone, rest=np.zeros_like(found.rest)))
    return scale(found)


def clustered(table: Array, groups: ArrayLike) -> Array:
    """Return one value ``[S, C]`` for each of C groups of prompts' values ``[S, N]``, with the same means.

    ``m + (C/N)·sum(x - m)`` over the group's values x, with m the seed's mean: to first order what the group gives to
    a mean whose number of values is itself chance (a ratio; Cochran, "Sampling Techniques", 1977, section 9.2). Their
    spread is the mean's sampling error over groups, whatever values of one group have in common.

    The table itself where no group has two values; and where all are of one group, which tells nothing of others:
    what is said is then about this one.

    Raises:
        ValueError: if there is not one group for each value.
    """
    names = np.asarray(groups)
    if names.shape != table.shape[1:]:
        raise ValueError(f"groups have shape {names.shape}; expected one for each of {table.shape[1]} values")
    at = np.unique(names, return_inverse=True)[1]
    count = int(at.max()) + 1
    if count in (1, len(at)):
        return table
    means = table.mean(1, keepdims=True)
    sums = np.stack([np.bincount(at, row, count) for row in table - means])
    return np.asarray(means + count / len(at) * sums, dtype=np.float64)


def rate_interval(rate: Array, found: Scale, level: float) -> tuple[Array, Array]:
    """Return Wilson's interval ``[...]`` of a rate in (0, 1) for the trials that would have its standard error."""
    # critical² / trials, with trials = rate·(1 − rate) / error²
    squared = (found.critical(level) * found.error) ** 2 / (rate * (1.0 - rate))
    return _score_interval(rate, squared)


def unanimous(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a mean of values in [0, 1], `n` of which were drawn and all of which are `share`.

    With a = (α/2)^(1/n) at least a share a of all values are like these (Clopper and Pearson 1934), and the rest may
    lie anywhere: ``[a·share, 1 − a·(1 − share)]``. For wins alone it is their exact interval, which leaves 1/2 out
    where the two-sided sign test's p, 2^(1 − n), is below α; for ties alone it is as narrow as their number makes it.
    """
    alike = ((1.0 - level) / 2.0) ** (1.0 / n)
    return alike * share, 1.0 - alike * (1.0 - share)


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of an observed `share` of `n` trials.

    ``(p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`` (Wilson 1927). Written out because
    ``scipy.stats.binomtest`` takes whole successes and a tie is half of one; the tests hold both equal.
    """
    from scipy.special import ndtri

    low, high = _score_interval(np.asarray(share), np.asarray(ndtri(0.5 + level / 2.0) ** 2 / n))
    return float(low), float(high)


def _score_interval(share: Array, squared: Array) -> tuple[Array, Array]:
    """Return the score interval of `share`, with `squared` the squared critical value over the number of trials."""
    centre = share + squared / 2.0
    half = np.sqrt(squared * share * (1.0 - share) + squared * squared / 4.0)
    low, high = (centre - half) / (1.0 + squared), (centre + half) / (1.0 + squared)
    return np.maximum(low, 0.0), np.minimum(high, 1.0)


def check_level(level: float) -> None:
    """Raise ValueError unless `level` is a confidence level."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")


def as_table(values: ArrayLike) -> Array:
    """Return `values` as float64 ``[S, N]``; raise ValueError where that is not possible."""
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"values must be numbers in an array [S, N] or [N]: {error}") from None
    if table.ndim == 1:
        table = table[None]
    if table.ndim != 2:
        raise ValueError(f"values have shape {table.shape}; expected [S, N] (seeds x prompts) or [N]")
    if table.size == 0:
        raise ValueError(f"values are empty (shape {table.shape}); an interval needs at least one value")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        bad = table[row, column]
        raise ValueError(f"value of seed {row}, prompt {column} is {bad}; all values must be finite")
    return table
