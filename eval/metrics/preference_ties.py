"""How often both responses of a held-out pair have one score."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Measure


def per_prompt(chosen_score: ArrayLike, rejected_score: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where both scores are equal, else 0."""
    chosen, rejected = base.vectors(chosen_score=chosen_score, rejected_score=rejected_score)
    return np.asarray(chosen == rejected, dtype=np.float64)


class PreferenceTies(base.PromptMetric):
    """Share of preference pairs with two equal scores, which count as half in the accuracy.

    A few per cent come of rounding (two scores of one bfloat16 number); many of scores on a short scale, or of a model
    that sees no difference.
    """

    of = "scores"
    order = 44
    version = "1.0.0"
    inputs = base.PAIR_SCORES
    measures: ClassVar = (
        Measure(
            "ties",
            "share of pairs with two equal scores",
            per_prompt,
            ("chosen_score", "rejected_score"),
            PERCENT,
            higher_is_better=False,
            heading="ties",
            shown=("preferences",),
            rate=True,
            bounds=(0.0, 1.0),
        ),
    )
    source = """@article{rafailov2023dpo,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and others},
  journal={arXiv:2305.18290}, year={2023}}"""
