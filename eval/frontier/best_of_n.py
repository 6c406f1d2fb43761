"""What best-of-n would reach, from the same reference samples as the oracle line."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from preflab.eval.frontier.tables import Array, as_table
from preflab.eval.records.frontier import BestOfN
from preflab.eval.statistics import interval
from preflab.sampling.best_of_n import best_of_n_kl_bound


def expected_best(rewards: ArrayLike, n: int) -> Array:
    """Return the expected best of n samples of each prompt, ``[X]``: the mean over all subsets of n of the M given.

    The i-th smallest is the best of C(i−1, n−1) of the C(M, n) subsets (Nakano et al. 2021, arXiv 2112.09332,
    appendix I). Unbiased for every n ≤ M, ties included.

    Args:
        rewards: ``[X, M]``.
        n: 1 to M.

    Raises:
        ValueError: if there is no subset of n.
    """
    ordered = np.sort(as_table(rewards, "rewards"), axis=1)
    samples = ordered.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"n is {n}; it must lie between 1 and the {samples} samples of a prompt")
    # From the largest down, each share is the one above times a ratio of binomials: no factorial overflows.
    ranks = np.arange(samples, 1, -1)
    shares = n / samples * np.cumprod(np.concatenate([[1.0], (ranks - n) / (ranks - 1)]).clip(0.0))
    return np.einsum("xm,m->x", ordered[:, ::-1], shares)


def best_of_n_curve(rewards: ArrayLike) -> list[BestOfN]:
    """Return the curve for n = 1 to M/4, at most 24 of them, evenly spaced in log n.

    Larger n would rest on a few lucky samples of each prompt. ``kl`` is log n − (n−1)/n, what best-of-n spends where
    no two samples tie and the most it can spend: with ties the curve lies too far right, never too far left.

    Args:
        rewards: ``[X, M]`` gold rewards of the reference's samples; intervals are 95 % over prompts.
    """
    found = as_table(rewards, "rewards")
    rows = []
    for n in np.unique(np.geomspace(1, max(1, found.shape[1] // 4), 24).round().astype(int)).tolist():
        mean = interval(expected_best(found, n), rate=False)
        rows.append(BestOfN(n=n, kl=best_of_n_kl_bound(n), gold_reward=mean.mean, low=mean.low, high=mean.high))
    return rows
