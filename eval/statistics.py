"""Means with intervals, for values that prompts and training seeds have in common."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Resamples are drawn in chunks of at most this many prompt indices (8 bytes each).
_CHUNK = 2_000_000


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
    values: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    rate: bool | None = None,
) -> Estimate:
    """Return the mean of `values` with a crossed (two-way) percentile bootstrap interval.

    Each resample draws prompts with replacement and, where there are several training seeds, seeds
    with replacement. All seeds answer the same prompts, so one prompt with its S values is one
    cluster: treating the S x N values as independent would make the interval too narrow.
    (Owen 2007, "The pigeonhole bootstrap", arXiv 0705.4543; Efron and Tibshirani 1993, chapter 13.)

    Where all values are equal, no resample differs and the bootstrap claims certainty. For a rate
    (values 0, 0.5 for a tie, 1) that is false: 20 wins of 20 are compatible with a true rate below
    one. There the Wilson score interval is used, over N prompts rather than S x N values, because
    seeds that share prompts add no independent ones.

    With several seeds the interval errs on the wide side while seeds differ by chance alone, and on the
    narrow side where the spread between two or three seeds dominates: that spread is then known from
    S - 1 differences only. More seeds help, more prompts do not.

    Args:
        values: ``[S, N]`` (S training seeds x N prompts) or ``[N]``; finite.
        level: confidence level, in (0, 1).
        resamples: number of bootstrap resamples.
        seed: of the resampling; equal arguments give equal results.
        rate: whether the values are a rate. By default that is judged by the values when they are all
            equal; pass False for quantities such as a KL, which may well be 0 on every prompt.

    Raises:
        ValueError: if there are no values, one is not finite, or an argument is out of range.
    """
    table = _table(values)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    mean = float(table.mean())
    first = float(table.flat[0])
    if (table == first).all():
        if rate is None:
            rate = first in (0.0, 0.5, 1.0)
        low, high = wilson(first, table.shape[1], level) if rate else (first, first)
        return Estimate(first, low, high, table.size)
    means = _bootstrap_means(table, resamples, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(mean, float(low), float(high), table.size)


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of an observed `share` of `n` trials.

    ``(p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`` (Wilson 1927). Written out because
    ``scipy.stats.binomtest`` takes whole successes and a tie is half of one; the tests hold both equal.
    """
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + level / 2.0))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1.0 + z * z / n) for sign in (-1.0, 1.0))
    return max(0.0, low), min(1.0, high)


def _table(values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as float64 ``[S, N]``, checked."""
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


def _bootstrap_means(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the means ``[resamples]`` of crossed resamples of `table` ``[S, N]``."""
    seeds, prompts = table.shape
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // prompts)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # A resample matters only through how often it holds each prompt and each seed.
        prompt_counts = _counts(generator, rows, prompts)
        # einsum, not a BLAS product: the same bits whatever the number of threads.
        by_seed = np.einsum("rn,sn->rs", prompt_counts, table) / prompts
        if seeds == 1:
            means[start : start + rows] = by_seed[:, 0]
        else:
            means[start : start + rows] = (by_seed * _counts(generator, rows, seeds)).sum(1) / seeds
    return means


def _counts(generator: np.random.Generator, rows: int, items: int) -> NDArray[np.float64]:
    """Return ``[rows, items]``: how often each item is drawn in `items` draws with replacement."""
    drawn = generator.integers(items, size=(rows, items))
    drawn += np.arange(rows)[:, None] * items
    return np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)
