"""Simulated comparisons whose truth is known, and how often tests reject and intervals hold it."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preflab.eval.statistics.intervals import rate_interval
from preflab.eval.statistics.significance import flip, sign_flips
from preflab.eval.statistics.variance import scale, spread

Array = NDArray[np.float64]

LEVEL = 0.95
# Shares of the variance of one value: the prompt (same for all methods), what a method makes of the prompt (same for
# all its seeds), and the rest.
SHARES = (0.4, 0.2, 0.4)
MEANS = {"reward, normal": 0.0, "reward, skewed": 0.0, "reward, heavy tails": 0.0, "win rate 50 %": 0.0,
         "win rate 85 %": 1.0364333894937898}  # fmt: skip
FLIPS, RESAMPLES = 1999, 500
DRAW = 1  # other draws than those by which the method was chosen


class Cell(NamedTuple):
    """A design: what is measured, prompts, seeds of both methods, and how much each method's seeds differ.

    `spreads` are standard deviations of a seed's true mean, in standard errors of one model's mean over prompts.
    """

    kind: str
    n: int
    seeds: tuple[int, int]
    spreads: tuple[float, float]


def generator(*name: object) -> np.random.Generator:
    return np.random.default_rng([DRAW, zlib.crc32(repr(name).encode())])


def noise(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    """Return values with mean 0 and variance 1."""
    if kind == "reward, skewed":
        return rng.exponential(size=shape) - 1.0
    if kind == "reward, heavy tails":
        return rng.standard_t(3, size=shape) / np.sqrt(3.0)
    return rng.normal(size=shape)


def simulate(rng: np.random.Generator, cell: Cell, count: int, methods: int = 2) -> tuple[list[Array], float]:
    """Return tables ``[R, S, N]`` of `methods` that are equally good, and their true mean.

    A win rate is the share of latent values above 0, a method against a fixed baseline.
    """
    rate = cell.kind.startswith("win rate")
    kind = "normal" if rate else cell.kind
    shared, own, rest = np.sqrt(SHARES)
    prompt = shared * noise(rng, kind, (count, 1, cell.n))
    tables, mean = [], MEANS[cell.kind]
    for method in range(methods):
        seeds, wide = cell.seeds[method % 2], cell.spreads[method % 2] / np.sqrt(cell.n)
        values = prompt + own * noise(rng, kind, (count, 1, cell.n)) + rest * noise(rng, kind, (count, seeds, cell.n))
        if rate:
            # Seeds' effects widen the latent values; the mean moves out by as much, and the rate stays.
            values = values + mean * np.sqrt(1.0 + wide**2)
        tables.append(values + wide * rng.normal(size=(count, seeds, 1)))
    if not rate:
        return tables, 0.0
    return [(table > 0.0).astype(np.float64) for table in tables], float(0.5 if mean == 0.0 else 0.85)


# ---- what is counted ---------------------------------------------------------------------------------


def rejects(first: Array, second: Array, level: float = LEVEL) -> Array:
    """Return ``[R]``: whether `compare` calls the methods different."""
    per_prompt = first.mean(1) - second.mean(1)
    if first.shape[1] == second.shape[1] == 1:
        return flip_p(per_prompt) < 1.0 - level
    found = scale(spread(per_prompt, [first, second]))
    return abs(per_prompt.mean(1)) > found.critical(level) * found.error


def flip_p(per_prompt: Array) -> Array:
    signs = sign_flips(per_prompt.shape[1], FLIPS)
    return np.array([flip(values, signs).p() for values in per_prompt])


def covers(table: Array, truth: float, rate: bool) -> Array:
    """Return ``[R]``: whether `interval` holds the truth."""
    mean, found = table.mean((1, 2)), scale(spread(table.mean(1), [table]))
    if not rate:
        return abs(mean - truth) <= found.critical(LEVEL) * found.error
    low, high = rate_interval(mean, found, LEVEL)
    return (low <= truth) & (truth <= high)


def bootstrap_covers(rng: np.random.Generator, table: Array, truth: float) -> Array:
    """Return ``[R]``: whether the crossed percentile bootstrap's interval holds the truth; one set of resamples."""
    count, seeds, n = table.shape
    prompts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    by_seed = (table.reshape(-1, n).astype(np.float32) @ prompts.T.astype(np.float32)).reshape(count, seeds, -1)
    means = np.einsum("rsb,bs->rb", by_seed, rows.astype(np.float32))
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return (low <= truth) & (truth <= high)


class Counted(NamedTuple):
    """Percentages of a cell."""

    test: float
    interval: float
    old_test: float | None
    old_interval: float


def count(cell: Cell, simulations: int) -> Counted:
    """Simulate a cell under its null."""
    rng = generator(*cell)
    (first, second), truth = simulate(rng, cell, simulations)
    old_test = None
    if first.shape == second.shape:
        old_test = 100.0 - percent(bootstrap_covers(rng, first - second, 0.0))
    return Counted(
        percent(rejects(first, second)),
        percent(covers(first, truth, cell.kind.startswith("win rate"))),
        old_test,
        percent(bootstrap_covers(rng, first, truth)),
    )


def percent(hits: Array) -> float:
    return 100.0 * float(np.mean(hits))
