"""By how much the chosen response of a held-out pair scores above the rejected one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(
    chosen_score: ArrayLike, rejected_score: ArrayLike, undecided: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return ``[N]``: chosen minus rejected score of each pair.

    Args:
        chosen_score: ``[N]``.
        rejected_score: ``[N]``.
        undecided: ``[N]`` where neither response is the better one, which gives 0; None: nowhere.
    """
    chosen, rejected = base.vectors(chosen_score=chosen_score, rejected_score=rejected_score)
    return np.asarray(chosen - rejected if undecided is None else np.where(undecided, 0.0, chosen - rejected))


class PreferenceMargin(base.PromptMetric):
    """Mean of chosen minus rejected score, in the score's own unit.

    Two models' margins compare only where their scores have one unit: nats of log π/π_ref do, the scores of
    two reward models do not. A margin may grow while accuracy falls, by a few pairs that are ever more certain.
    """

    of = "scores"
    order = 34
    version = "1.0.0"
    inputs = base.PAIR_SCORES
    measures: ClassVar = (
        Measure(
            "margin",
            "mean of chosen minus rejected score",
            per_prompt,
            ("chosen_score", "rejected_score", "undecided"),
            Unit("the score's own"),
            higher_is_better=True,
            heading="margin",
            shown=("preferences",),
        ),
    )
    source = """@article{rafailov2023dpo,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and others},
  journal={arXiv:2305.18290}, year={2023}}"""
