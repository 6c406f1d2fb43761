"""By how much the chosen response of a held-out pair scores above the rejected one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import base


def per_prompt(chosen_score: ArrayLike, rejected_score: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: chosen minus rejected score of each pair."""
    chosen, rejected = base.vectors(chosen_score=chosen_score, rejected_score=rejected_score)
    return np.asarray(chosen - rejected, dtype=np.float64)


class PreferenceMargin(base.PromptMetric):
    """Mean of chosen minus rejected score, in the score's own unit.

    Two models' margins compare only where their scores have one unit: nats of log π/π_ref do, the scores of
    two reward models do not. A margin may grow while accuracy falls, by a few pairs that are ever more certain.
    """

    higher_is_better = True
    version = "1.0.0"
    inputs = base.PAIR_SCORES
    outputs: ClassVar = {
        "margin": "mean of chosen minus rejected score",
        **base.of_mean("pairs"),
    }
    source = """@article{rafailov2023dpo,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and others},
  journal={arXiv:2305.18290}, year={2023}}"""
    values = staticmethod(per_prompt)
