"""The reward-KL frontier: what a KL could buy at best, what each method bought with it, and where gold bends.

Pure functions of arrays, in numpy and scipy alone; docs/frontier.md says how to read what they return.
"""

from __future__ import annotations

from preflab.eval.frontier.attained import attainable, under_the_line
from preflab.eval.frontier.best_of_n import best_of_n_curve, expected_best
from preflab.eval.frontier.matching import Point, equal_kl, matched, matched_differences
from preflab.eval.frontier.oracle import Oracle, exact_oracle, sampled_oracle
from preflab.eval.frontier.overoptimisation import fit_overoptimisation
from preflab.eval.frontier.summary import frontier

__all__ = [
    "Oracle",
    "Point",
    "attainable",
    "best_of_n_curve",
    "equal_kl",
    "exact_oracle",
    "expected_best",
    "fit_overoptimisation",
    "frontier",
    "matched",
    "matched_differences",
    "sampled_oracle",
    "under_the_line",
]
