"""How uncertain a mean over training seeds and prompts is: a two-way random-effects model.

A value is ``y[s, n] = mu + seed[s] + prompt[n] + rest[s, n]``. Seeds are few, so that the spread between them is
itself badly known; prompts are many and shared by all seeds. The variance of the mean has two parts:

- the seeds' part U: the spread of the seeds' means, with S - 1 degrees of freedom. It holds ``rest`` too;
- the prompts' own part B: the spread of the prompts' means, less the share of ``rest`` that U counts already.

The critical value lies between the t quantiles of the two, by the share of U in U + B; see `Scale`.

All functions take leading batch axes ``[...]``, so that simulations run thousands of tables at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Nothing that rests on t quantiles is known more closely.
_SMALLEST_P = 1e-12


class Spread(NamedTuple):
    """The mean squares behind a mean's variance, in units of that variance.

    Attributes:
        seeds: ``[K, ...]`` variance of the mean by the spread between seeds, one row for each group of seeds.
        seeds_df: ``[K]`` their degrees of freedom.
        prompts: ``[...]`` variance of the mean by the spread between prompts.
        rest: ``[...]`` what both of them count.
        prompts_df: degrees of freedom of `prompts`.
        players: of how many groups of seeds one value is made: 1, or 2 for a game of one seed against another, whose
            noise both groups then count.
    """

    seeds: Array
    seeds_df: Array
    prompts: Array
    rest: Array
    prompts_df: int
    players: int = 1


class Scale(NamedTuple):
    """Standard error ``[...]`` of a mean, and what its critical value is made of.

    Attributes:
        error: ``[...]`` standard error.
        share: ``[...]`` the seeds' part of its square, 0 to 1.
        seeds_df: ``[...]`` degrees of freedom of the seeds' part.
        prompts_df: and of the prompts' own.
    """

    error: Array
    share: Array
    seeds_df: Array
    prompts_df: int

    def critical(self, level: float) -> Array:
        """Return how many standard errors an interval reaches to both sides."""
        return self._quantile((1.0 - level) / 2.0)

    def _quantile(self, tail: float) -> Array:
        """Return the critical value: the t quantile of the prompts where they alone count, of the seeds where they do.

        Between the two it follows an S-shaped curve of the observed share w, steeper and earlier the further the
        quantiles lie apart, ``1 / (1 + (2.7 g^(-4/3) (1 - w) / w)^g)`` with g their ratio. A weight of w itself
        (Cochran and Cox, "Experimental Designs", 1957, section 4.14) covers too much where the parts are alike, and
        too little where two seeds' means happen to lie close together. Constants were chosen on the integral over
        w's distribution: at 95 % coverage is 94.3 % to 96.2 % with one degree of freedom, at every true share.
        """
        from scipy.special import expit, stdtrit

        prompts = -stdtrit(self.prompts_df, tail)
        if prompts <= 0.0:
            return np.zeros_like(self.error)
        seeds = -stdtrit(self.seeds_df, tail)
        apart = np.maximum(seeds / prompts, 1.0)
        # In logarithms, because 1e-12 in one tail is a quantile of 1e11 at one degree of freedom.
        with np.errstate(divide="ignore"):
            odds = np.log(self.share) - np.log1p(-self.share) - np.log(2.7) + np.log(apart) * 4.0 / 3.0
        return np.asarray(prompts + expit(apart * odds) * (seeds - prompts), dtype=np.float64)

    def p(self, distance: float) -> float:
        """Return the level at which an interval just reaches `distance`, from 1 (for 0) down to 0; no batch axes."""
        from scipy.optimize import brentq

        if distance == 0.0 or self.error == 0.0:
            return float(distance == 0.0)
        reach = abs(distance) / float(self.error)
        if self._quantile(_SMALLEST_P / 2.0) <= reach:
            return _SMALLEST_P
        return float(brentq(lambda p: float(self._quantile(p / 2.0)) - reach, _SMALLEST_P, 1.0, xtol=1e-16))


def spread(per_prompt: Array, tables: Sequence[Array], players: int = 1) -> Spread:
    """Return the mean squares of a mean.

    Args:
        per_prompt: ``[..., N]`` values whose mean is the estimate, averaged over seeds.
        tables: ``[..., S, N]`` for each group of seeds: what each seed adds to the estimate. A group of one seed
            adds nothing: the estimate is then about this trained model.
        players: of how many groups of seeds one value is made.
    """
    n = per_prompt.shape[-1]
    # One prompt tells nothing of others: what is left is about this prompt.
    prompts = per_prompt.var(-1, ddof=1) / n if n > 1 else np.zeros(per_prompt.shape[:-1])
    groups = [table for table in tables if table.shape[-2] > 1]
    seeds, rest = [], np.zeros_like(prompts)
    for table in groups:
        count = table.shape[-2]
        by_seed = table.mean(-1)
        seeds.append(by_seed.var(-1, ddof=1) / count)
        if n > 1:
            left = table - by_seed[..., None] - table.mean(-2, keepdims=True) + by_seed.mean(-1)[..., None, None]
            rest = rest + np.einsum("...sn,...sn->...", left, left) / ((count - 1) * (n - 1) * count * n)
    rows = np.stack(seeds) if seeds else np.zeros((0, *prompts.shape))
    seeds_df = np.array([group.shape[-2] - 1.0 for group in groups])
    return Spread(rows, seeds_df, prompts, rest, max(n - 1, 1), max(1, min(players, len(groups))))


def scale(found: Spread) -> Scale:
    """Return the standard error and the critical value's parts.

    Degrees of freedom of several groups of seeds together: ``(sum U)² / sum(U² / (df + 2)) - 2`` (Welch 1947,
    Biometrika 34), which corrects Satterthwaite's formula for squaring estimates: with two or three seeds each
    that one rejects too seldom.
    """
    seeds = found.seeds.sum(0)
    own = np.maximum(found.prompts - found.rest, -seeds * (1.0 - 1.0 / found.players))
    variance = seeds + own
    known = seeds > 0.0
    squares = np.einsum("k...,k->...", found.seeds**2, 1.0 / (found.seeds_df + 2.0))
    df = np.divide(seeds**2, squares, out=np.full_like(seeds, 3.0), where=known & (squares > 0.0)) - 2.0
    df = np.maximum(df, 1.0)
    share = np.divide(seeds, variance, out=np.zeros_like(seeds), where=known)
    return Scale(np.sqrt(variance), np.minimum(share, 1.0), df, found.prompts_df)


class Components(NamedTuple):
    """The parts of one value's variance, as standard deviations.

    Attributes:
        seeds: of what a seed (of a difference, those of both sides) gives to all prompts; 0 where there is one seed.
        prompts: of what a prompt gives to all seeds; with one seed, of all that varies over prompts.
        rest: of what is left; 0 with one seed, which cannot tell it from `prompts`.
        groups: of how many independent groups of seeds the first is made; 0 where nothing is known of it.
        design: seeds of each group, and prompts, that they were found from.
    """

    seeds: float
    prompts: float
    rest: float
    groups: int
    design: tuple[int, int]

    def cautious(self, sure: float) -> Components:
        """Return the same with the seeds' part at its upper limit: as surely below it as `sure` (chi-square)."""
        from scipy.special import chdtri

        seeds, prompts = self.design
        df, rest = self.groups * (seeds - 1), self.rest**2 / prompts
        limit = (self.seeds**2 + rest) * df / chdtri(df, sure)
        return self._replace(seeds=max(limit - rest, 0.0) ** 0.5)

    def at(self, seeds: int, prompts: int) -> Spread:
        """Return the mean squares that a design of so many seeds (each side) and prompts has on average."""
        rest = self.rest**2 / (seeds * prompts)
        one = (self.seeds**2 / seeds + rest) / max(self.groups, 1)
        rows = np.full(self.groups if seeds > 1 else 0, one)
        spread_of_prompts = np.asarray(self.prompts**2 / prompts + rest)
        return Spread(rows, np.full(len(rows), seeds - 1.0), spread_of_prompts, np.asarray(rest), max(prompts - 1, 1))


def components(found: Spread) -> Components:
    """Return the parts of one value's variance by the method of moments; a part that comes out below 0 is 0.

    With few seeds the first is as rough as its degrees of freedom are few.

    Args:
        found: the mean squares of one mean, without batch axes.
    """
    prompts, groups = found.prompts_df + 1, len(found.seeds_df)
    seeds = round(float((found.seeds_df + 1.0).mean())) if groups else 1
    rest = float(found.rest)
    of_seeds = max(float(found.seeds.sum()) - rest, 0.0) * seeds if groups else 0.0
    of_prompts = max(float(found.prompts) - rest, 0.0) * prompts
    return Components(of_seeds**0.5, of_prompts**0.5, (rest * seeds * prompts) ** 0.5, groups, (seeds, prompts))


def detectable(found: Spread, level: float, power: float = 0.8, draws: int = 2000, *, planned: bool = False) -> float:
    """Return the smallest true mean that a test at `level` would tell from 0 with this `power`.

    The mean squares are drawn anew around those found, so that a critical value and a standard error that vary
    from one comparison to the next count as they are. For several groups of seeds, seeds are taken to vary alike
    in all of them: of how they differ in that, two or three seeds say nothing. With few seeds the figure is rough,
    right on average over repetitions (docs/calibration.md) and not for each.

    Args:
        found: the mean squares of one mean, without batch axes.
        level: confidence level of the test, such as 0.95.
        power: probability of seeing it.
        draws: number of mean squares drawn.
        planned: these are the mean squares that a design has on average, and no estimates, whose roots are too small.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    if len(found.seeds_df):
        counts = found.seeds_df + 1.0
        pooled = float((found.seeds_df * counts * found.seeds).sum() / found.seeds_df.sum())
        found = found._replace(seeds=pooled / counts)
    error = float(scale(found).error)
    if error == 0.0:
        return 0.0
    redrawn = scale(_drawn_again(found, draws))
    reach = redrawn.critical(level) * redrawn.error / error

    def seen(mean: float) -> float:
        return float((ndtr(mean - reach) + ndtr(-mean - reach)).mean())

    if seen(0.0) >= power:
        return 0.0
    highest = 10.0
    while seen(highest) < power:
        highest *= 2.0
    # The root of a variance is too small on average; the draws tell by how much.
    bias = 1.0 if planned else float(redrawn.error.mean()) / error
    return float(brentq(lambda mean: seen(mean) - power, 0.0, highest, rtol=1e-8)) * error / bias


def _drawn_again(found: Spread, draws: int) -> Spread:
    """Return mean squares as repetitions of the same design would give, with a batch axis ``[draws]``."""
    generator = np.random.default_rng(0)

    def again(value: Array, df: float) -> Array:
        return np.asarray(value * generator.chisquare(df, draws) / df, dtype=np.float64)

    seeds = [again(value, df) for value, df in zip(found.seeds, found.seeds_df, strict=True)]
    rows = np.stack(seeds) if seeds else np.zeros((0, draws))
    return found._replace(seeds=rows, prompts=again(found.prompts, found.prompts_df))
