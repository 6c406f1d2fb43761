"""A ranking of methods from who beat whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, check_level, known_scale
from preflab.eval.statistics.variance import spread

Array = NDArray[np.float64]

# 400 points are odds of ten to one.
_POINTS = 400.0 / math.log(10.0)
_MEAN = 1000.0


class Rank(NamedTuple):
    """One method's place.

    Attributes:
        method: its name.
        rating: Bradley-Terry strength in Elo points; all ratings have mean 1000.
        rank_low: best rank that the intervals leave open.
        rank_high: worst rank that they leave open.
        separated: the method, or a group with it, won or lost every game against the others. Its strength is then
            unbounded, and the rating is what the one tied game added to each pair makes of it.
    """

    method: str
    rating: Estimate
    rank_low: int
    rank_high: int
    separated: bool


def bradley_terry(
    methods: Sequence[str], wins: Mapping[tuple[str, str], ArrayLike], *, level: float = 0.95
) -> list[Rank]:
    """Return the methods, best first, by Bradley-Terry strength (Bradley and Terry 1952; Elo's scale).

    ``P(i beats j) = 1 / (1 + exp(θ_j − θ_i))``; a tie is half a win. One tied game is added to each pair, half a
    win to either side: it keeps strengths finite and takes out the first-order bias of a log-odds (Haldane 1956).
    Intervals follow to first order from the spread of games over prompts (one prompt is one cluster, in all pairs)
    and seeds, as in `interval`.

    Args:
        methods: M names.
        wins: for pairs (first, second), each pair once, how often the first answers better:
            ``[S_first, S_second, N]`` for every seed against every seed, or ``[S, N]`` where row s is a game of
            seed s of both (a single row serves all s). The same prompts in all pairs, and one shape for all.
        level: confidence level.

    Raises:
        ValueError: if a pair is missing, unknown or of another shape, or a value is outside [0, 1].
    """
    check_level(level)
    games = _games(methods, wins)
    size = len(methods)
    n = next(iter(games.values())).shape[-1] if games else 0
    shares = np.full((size, size), 0.5)
    for (i, j), table in games.items():
        shares[i, j] = (table.mean() * n + 0.5) / (n + 1)
        shares[j, i] = 1.0 - shares[i, j]
    strength = _fit(shares)
    ratings = [_rating(k, strength, games, shares, level) for k in range(size)]
    separated = _separated(size, games)
    ranks = []
    for k in sorted(range(size), key=lambda k: -ratings[k].mean):
        above = int(sum(other.low > ratings[k].high for other in ratings))
        below = int(sum(other.high < ratings[k].low for other in ratings))
        ranks.append(Rank(methods[k], ratings[k], 1 + above, size - below, separated[k]))
    return ranks


def _games(methods: Sequence[str], wins: Mapping[tuple[str, str], ArrayLike]) -> dict[tuple[int, int], Array]:
    """Return the checked games by positions of the methods."""
    place = {name: k for k, name in enumerate(methods)}
    games: dict[tuple[int, int], Array] = {}
    for (first, second), values in wins.items():
        table = np.asarray(values, dtype=np.float64)
        if first not in place or second not in place or first == second:
            raise ValueError(f"games of {first!r} against {second!r}; the methods are {list(methods)}")
        if table.ndim not in (2, 3) or table.size == 0:
            raise ValueError(f"games of {first!r} against {second!r} have shape {table.shape}; expected [S, N] or "
                             "[S_first, S_second, N]")  # fmt: skip
        if not ((table >= 0.0) & (table <= 1.0)).all():
            raise ValueError(f"games of {first!r} against {second!r} must lie between 0 and 1, with none missing")
        games[place[first], place[second]] = table
    pairs = {frozenset(pair) for pair in games}
    if len(place) != len(methods) or len(pairs) != len(games) or len(pairs) != len(methods) * (len(methods) - 1) // 2:
        raise ValueError(f"{len(games)} tables of games for {len(methods)} methods; give each pair once")
    if len({(table.ndim, table.shape[-1]) for table in games.values()}) > 1:
        raise ValueError("pairs differ in their number of prompts or of dimensions; all must have played the same")
    return games


def _fit(shares: Array) -> Array:
    """Return the strengths ``[M]``, mean 0, that explain `shares` ``[M, M]`` best."""
    from scipy.optimize import minimize
    from scipy.special import expit

    size = len(shares)
    others = 1.0 - np.eye(size)

    def loss(theta: Array) -> float:
        gaps = theta[:, None] - theta[None]
        return float((others * shares * np.logaddexp(0.0, -gaps)).sum() + 0.5 * theta.mean() ** 2)

    def gradient(theta: Array) -> Array:
        missing = others * (expit(theta[:, None] - theta[None]) - shares)
        return np.asarray(missing.sum(1) + theta.mean() / size, dtype=np.float64)

    found = minimize(
        loss, np.zeros(size), jac=gradient, hess=_information, method="trust-exact", options={"gtol": 1e-10}
    )
    return np.asarray(found.x - found.x.mean(), dtype=np.float64)


def _information(theta: Array) -> Array:
    """Return the curvature ``[M, M]`` of one game per pair; the mean strength, free otherwise, is held."""
    from scipy.special import expit

    chance = expit(theta[:, None] - theta[None])
    weight = chance * (1.0 - chance)
    np.fill_diagonal(weight, 0.0)
    return np.asarray(np.diag(weight.sum(1)) - weight + 1.0 / len(theta) ** 2, dtype=np.float64)


def _rating(k: int, strength: Array, games: Mapping[tuple[int, int], Array], shares: Array, level: float) -> Estimate:
    """Return method k's rating; how it moves with each pair's share of wins follows from the fitted equations."""
    mean = _MEAN + _POINTS * float(strength[k])
    if not games:
        return Estimate(mean, mean, mean, 0)
    inverse = np.linalg.inv(_information(strength))
    slope = {(i, j): _POINTS * (inverse[k, i] - inverse[k, j]) for i, j in games}
    n = next(iter(games.values())).shape[-1]
    flat = {pair: table.reshape(-1, n).mean(0) for pair, table in games.items()}
    per_prompt = np.sum([slope[pair] * flat[pair] for pair in games], axis=0)
    tables = _by_seed(games, slope, len(strength))
    found = spread(per_prompt, tables, players=min(len(tables), 2))
    # The added half games vary too; where every game was won, they alone do.
    added = sum(slope[i, j] ** 2 * 0.5 * (shares[i, j] ** 2 + shares[j, i] ** 2) / (n + 1) ** 2 for i, j in games)
    error = known_scale(found._replace(prompts=found.prompts + added))
    half = float(error.critical(level)) * float(error.error)
    return Estimate(mean, mean - half, mean + half, sum(table.size for table in games.values()))


def _by_seed(games: Mapping[tuple[int, int], Array], slope: Mapping[tuple[int, int], float], size: int) -> list[Array]:
    """Return what each seed adds to a rating: ``[S, N]`` for each method, or once where rows are seeds of all."""
    if next(iter(games.values())).ndim == 2:
        rows = max(len(table) for table in games.values())
        if any(len(table) not in (1, rows) for table in games.values()):
            raise ValueError("pairs differ in their number of seeds; give every seed against every seed, [S, S', N]")
        return [np.sum([slope[pair] * np.broadcast_to(t, (rows, t.shape[-1])) for pair, t in games.items()], axis=0)]
    tables = []
    for method in range(size):
        own = [slope[i, j] * t.mean(1) for (i, j), t in games.items() if i == method]
        own += [slope[i, j] * t.mean(0) for (i, j), t in games.items() if j == method]
        if len({len(table) for table in own}) > 1:
            raise ValueError("a method has different numbers of seeds in different pairs")
        tables.append(np.sum(own, axis=0))
    return tables


def _separated(size: int, games: Mapping[tuple[int, int], Array]) -> list[bool]:
    """Return which methods lie outside the largest group whose games went both ways."""
    from scipy.sparse.csgraph import connected_components

    scored = np.zeros((size, size))
    for (i, j), table in games.items():
        scored[i, j], scored[j, i] = table.max() > 0.0, table.min() < 1.0
    _, labels = connected_components(scored, directed=True, connection="strong")
    counts = np.bincount(labels)
    return [bool(counts[label] < counts.max() or counts.max() == 1 < size) for label in labels]
