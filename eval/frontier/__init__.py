"""The reward-KL frontier: what a KL could buy at best, what each method bought with it, and where gold bends.

Pure functions of arrays, in numpy and scipy alone; docs/frontier.md says how to read what they return.
"""

from __future__ import annotations

from eval.frontier.attained import attainable, under_the_line
from eval.frontier.best_of_n import best_of_n_curve, expected_best
from eval.frontier.matching import Point, equal_kl, matched, matched_differences
from eval.frontier.oracle import Oracle, exact_oracle, sampled_oracle
from eval.frontier.overoptimisation import fit_overoptimisation
from eval.frontier.summary import frontier

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
