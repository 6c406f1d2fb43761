"""Is one method better than another, or could it be chance?"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, as_table, check_level, known_scale, unanimous
from preflab.eval.statistics.variance import Components, Spread, components, detectable, spread

Array = NDArray[np.float64]
Verdict = Literal["first", "second", "none"]

# Sign flips beside the values as they are: p-values in steps of 1/10,000.
_FLIPS = 9_999


class Difference(NamedTuple):
    """What separates two methods.

    Attributes:
        estimate: mean of the first less mean of the second, with its interval.
        p: two-sided p-value of "no difference", never 0; below 1 - level exactly where the interval leaves 0 out.
        detectable: the true difference that a test of this design, corrected for the number of comparisons, would
            see with 80 % power: 0 where nothing varies, so that nobody knows, and infinite where the prompts are too
            few for any.
        components: what the variance of a value is made of.
    """

    estimate: Estimate
    p: float
    detectable: float
    components: Components


def compare(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, comparisons: int = 1, paired: bool = False
) -> Difference:
    """Compare two methods on the prompts that both have answered.

    Prompts are shared and pair the two methods; training seeds are independent, seed 0 of one has nothing to do
    with seed 0 of the other. With one seed on each side, prompts' differences are flipped in sign (Fisher's
    randomisation test): the question is whether *these two trained models* differ. Up to 13 prompts all flips are
    enumerated, from 14 on 9,999 are drawn, and ties count by half (`flip`): p is a mid-p, and of drawn flips an
    estimate. The interval holds the differences that the same flips would not reject: all there are, where the prompts
    are fewer than `fewest_prompts`. With more seeds on a side, the question is about the method, and the test and
    interval are the approximate ones of `eval.statistics.variance`; a side with one seed still stands for its one
    trained model.

    Args:
        first: ``[S_a, N]`` or ``[N]``.
        second: ``[S_b, N]`` or ``[N]``, on the same prompts in the same order.
        level: confidence level of the interval, and of the test before correction.
        comparisons: how many tests share the error, for `detectable`: Holm's strictest step is (1 - level) / m.
        paired: seed s of one shares its replication (start, reward model) with seed s of the other: the differences
            within replications are the rows then, and what a replication gives to both cancels.

    Raises:
        ValueError: if the numbers of prompts differ, or those of paired seeds, there is only one prompt, or values or
            level are out of range.
    """
    a, b = as_table(first), as_table(second)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"first has {a.shape[1]} prompts, second {b.shape[1]}; compare them on the same prompts")
    if paired and len(a) != len(b):
        raise ValueError(f"first has {len(a)} seeds, second {len(b)}: no pairs")
    per_prompt = a.mean(0) - b.mean(0)
    tables = [a - b] if paired else [a, b]
    return _difference(per_prompt, spread(per_prompt, tables), a.size + b.size, level, comparisons)


def compare_wins(wins: ArrayLike, *, level: float = 0.95, comparisons: int = 1) -> Difference:
    """Compare two methods by who answered better: the share of wins of the first less that of the second.

    As `compare` does, but for prompts that are all alike, such as wins alone or ties alone: their spread is 0, and
    their number says how sure that is. Interval and p are then those of `unanimous`, for wins alone the exact ones of
    the sign test. No interval reaches beyond -1 or 1.

    Args:
        wins: 1 where the first answers better, 0.5 for a tie, 0 otherwise: ``[S_a, S_b, N]``, every seed against
            every seed; or ``[S, N]``, pairs of models of which no two have a seed in common unless one side has
            only one.
        level: as in `compare`.
        comparisons: as in `compare`.

    Raises:
        ValueError: if there is only one prompt, or values or level are out of range.
    """
    games = np.asarray(wins, dtype=np.float64)
    if games.ndim == 3:
        as_table(games.reshape(-1, games.shape[-1]))
        tables = [2.0 * games.mean(1) - 1.0, 2.0 * games.mean(0) - 1.0]
    else:
        tables = [2.0 * as_table(games) - 1.0]
    per_prompt = tables[0].mean(0)
    if not ((games >= 0.0) & (games <= 1.0)).all():
        raise ValueError("wins must lie between 0 (loss) and 1 (win), 0.5 for a tie")
    found = spread(per_prompt, tables, players=len(tables))
    tested = _difference(per_prompt, found, games.size, level, comparisons)
    estimate = tested.estimate
    low, high, p = max(estimate.low, -1.0), min(estimate.high, 1.0), tested.p
    if _constant(per_prompt, found):
        share = 0.5 * (1.0 + estimate.mean)
        low, high = (2.0 * end - 1.0 for end in unanimous(share, len(per_prompt), level))
        # The level at which that interval just reaches 1/2.
        p = min(1.0, 2.0 * (1.0 + abs(estimate.mean)) ** -len(per_prompt))
    return tested._replace(estimate=estimate._replace(low=low, high=high), p=p)


def fewest_prompts(level: float = 0.95, comparisons: int = 1) -> int:
    """Return how many prompts a difference takes at the least, if it is to be significant after correction.

    Whatever the differences, all signs equal is the most that N prompts can show, and chance does it in 2^(1 − N) of
    cases: with fewer, nothing that was measured could tell a difference from chance without a belief about how
    differences are distributed. The test of several seeds has such a belief (normal values), and its p may be smaller.

    Args:
        level: of the test before correction.
        comparisons: how many tests share the error; Holm's strictest step is (1 - level) / m.
    """
    return math.floor(1.0 - math.log2((1.0 - level) / comparisons)) + 1


def _difference(per_prompt: Array, found: Spread, n: int, level: float, comparisons: int) -> Difference:
    check_level(level)
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; it must be at least 1")
    mean, count = float(per_prompt.mean()), len(per_prompt)
    if count < 2:
        raise ValueError("there is one prompt; nothing about others follows from it: compare on two or more")
    parts = components(found)
    smallest = detectable(found, 1.0 - (1.0 - level) / comparisons)
    if not len(found.seeds) or _constant(per_prompt, found):
        # Where neither prompts nor seeds differ there is no spread to measure: the signs are all that is left.
        flips = flip(per_prompt, sign_flips(count))
        enough = count >= fewest_prompts(level, comparisons)
        return Difference(Estimate(mean, *flips.interval(level), n), flips.p(), smallest if enough else math.inf, parts)
    error = known_scale(found)
    half = float(error.critical(level) * error.error)
    return Difference(Estimate(mean, mean - half, mean + half, n), error.p(mean), smallest, parts)


def _constant(per_prompt: Array, found: Spread) -> bool:
    """Whether all prompts, and all seeds where there are several, have one mean, but for the rounding of float64."""
    size = float(abs(per_prompt).max())
    return bool(np.ptp(per_prompt) <= 1e-12 * size and np.sqrt(found.seeds.sum()) <= 1e-12 * size)


def sign_flips(count: int, flips: int = _FLIPS, seed: int = 0) -> Array:
    """Return signs ``[K, count]``, the first row all +1: every combination where these are no more than `flips`."""
    if 2**count <= flips:
        return np.asarray(1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1), dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, size=(flips + 1, count), dtype=np.int8)
    drawn[0] = 0
    return np.asarray(1 - 2 * drawn, dtype=np.float64)


class Flips(NamedTuple):
    """The p-value of every supposed mean by sign flips, of one ``[N]`` of differences.

    Attributes:
        mean: mean of the values.
        below: supposed means up to `mean`, rising, ``[L]``, and `p_below` their p-values, rising.
        above: supposed means from `mean` on, rising, ``[H]``, and `p_above` their p-values, falling.
        least: p-value further out than all of these.
    """

    mean: float
    below: Array
    p_below: Array
    above: Array
    p_above: Array
    least: float

    def p(self) -> float:
        """Return the p-value of a mean of 0."""
        if self.mean == 0.0:
            return 1.0
        if self.mean > 0.0:
            return float(np.interp(0.0, self.below, self.p_below, left=self.least))
        return float(np.interp(0.0, self.above, self.p_above, right=self.least))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the means whose p-value is not below 1 - level: all, where flips are too few to reject any."""
        if self.least >= round(1.0 - level, 12):
            return -math.inf, math.inf
        low = np.interp(1.0 - level, self.p_below, self.below)
        high = np.interp(1.0 - level, self.p_above[::-1], self.above[::-1])
        return float(low), float(high)


def flip(values: Array, signs: Array) -> Flips:
    """Flip the signs of `values` ``[N]`` about every supposed mean, in all the ways of `signs` ``[K, N]``.

    Around a supposed mean c, a flip e is as far out as the values themselves where
    ``|mean - c| <= |mean(e·values) - c·mean(e)|``: for c between two roots, on either side of the mean. The p-value
    of c is the share of flips whose roots enclose c, those with a root at c by half (the mid-p-value, Lancaster
    1961: wins and losses come in steps, and whole ties make the test reject 2.6 % instead of 5 %), and linear in
    between. So the interval and the p-value are one curve, and cannot disagree. The values as they are, and their
    mirror image where it is among the flips, are as far out as themselves about every mean, and count whole: no p is 0,
    2^(1 − N) is the least of all flips, and of m drawn ones 1/(m + 1) (Phipson and Smyth 2010).
    """
    n = len(values)
    unit = float(abs(values).max()) or 1.0
    scaled = values / unit
    mean, flipped, balance = scaled.sum() / n, np.einsum("kn,n->k", signs, scaled) / n, signs.sum(1) / n
    proper = abs(balance) < 1.0
    one = (mean - flipped[proper]) / (1.0 - balance[proper])
    other = (mean + flipped[proper]) / (1.0 + balance[proper])
    # Rounded, so that ties are ties.
    least = float((~proper).mean())
    above, p_above = _share_beyond(np.round(np.maximum(one, other), 12), len(signs), least)
    below, p_below = _share_beyond(np.round(-np.minimum(one, other), 12), len(signs), least)
    return Flips(float(mean * unit), -below[::-1] * unit, p_below[::-1], above * unit, p_above, least)


def _share_beyond(roots: Array, count: int, least: float) -> tuple[Array, Array]:
    """Return the distinct roots, rising, and the share of flips with a root beyond each, ties by half."""
    places, ties = np.unique(roots, return_counts=True)
    return places, (len(roots) - np.cumsum(ties) + 0.5 * ties) / count + least


def holm(p: ArrayLike) -> Array:
    """Return p-values adjusted so that the chance of any false rejection stays at the level (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none ends below a smaller one.

    Args:
        p: ``[m]`` p-values; m may be 0.

    Raises:
        ValueError: if one lies outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError(f"p-values must be one list of numbers between 0 and 1; got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted


def verdict(mean: float, p: float, level: float = 0.95) -> Verdict:
    """Return which method is better: "none" unless the (adjusted) p-value is below 1 - level."""
    # Rounded: 1 - 0.95 is a little more than 0.05.
    if p >= round(1.0 - level, 12):
        return "none"
    return "first" if mean > 0.0 else "second"
