"""Where the uncertainty of a comparison comes from: seeds or replications, prompts, and what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.records.variance import Replications, Shares, Sources
from preflab.eval.statistics.variance import Components


def sources(parts: Components) -> Sources:
    """Return the parts of the variance of one difference, and what each makes of its squared standard error."""
    seeds, prompts = parts.design
    squares = np.array([parts.seeds**2 / seeds, parts.prompts**2 / prompts, parts.rest**2 / (seeds * prompts)])
    total = squares.sum()
    shares = (float(part) for part in (squares / total if total else np.zeros(3)))
    return Sources(
        seeds=parts.seeds if parts.groups else None,
        prompts=parts.prompts,
        rest=parts.rest,
        groups=parts.groups,
        training_seeds=seeds,
        tested_prompts=prompts,
        shares=Shares(**dict(zip(("seeds", "prompts", "rest"), shares, strict=True))),
    )


def replications(contestants: Sequence[Contestant]) -> Replications | None:
    """Return what replications give to all of their methods and to each alone; None where methods share none.

    A two-way layout of the methods' mean rewards by replication: the interaction's mean square is what is a method's
    own, and the excess of the replications' mean square over it, divided by the number of methods, is what they share
    (Scheffé, "The Analysis of Variance", 1959, chapter 7). Below 0 it counts as 0.
    """
    tables = [one.table("gold") for one in contestants if one.replicated]
    known = [table.mean(1) for table in tables if table is not None]
    if len(known) < 2 or len({len(row) for row in known}) != 1 or len(known[0]) < 2:
        return None
    means = np.stack(known)
    methods, seeds = means.shape
    left = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    own = float((left**2).sum()) / ((methods - 1) * (seeds - 1))
    shared = max(methods * float(means.mean(0).var(ddof=1)) - own, 0.0) / methods
    return Replications(shared=shared**0.5, own=own**0.5, methods=methods, training_seeds=seeds)
