"""How often the chosen response of a held-out pair scores above the rejected one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base, preference_ties
from preflab.eval.metrics.measures import PERCENT, Measure, Of


def per_prompt(
    chosen_score: ArrayLike, rejected_score: ArrayLike, undecided: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where the chosen response scores higher, 0.5 on ties, 0 otherwise.

    Args:
        chosen_score: ``[N]``.
        rejected_score: ``[N]``.
        undecided: ``[N]`` where neither response is the better one, which gives 0.5; None: nowhere.
    """
    right = base.share_above(*base.vectors(chosen_score=chosen_score, rejected_score=rejected_score))
    return right if undecided is None else np.where(undecided, 0.5, right)


ACCURACY = Measure(
    "accuracy",
    "share of pairs whose chosen response has the higher score, ties as half",
    per_prompt,
    ("chosen_score", "rejected_score", "undecided"),
    PERCENT,
    higher_is_better=True,
    heading="accuracy",
    shown=("preferences",),
    rate=True,
    bounds=(0.0, 1.0),
)


class PreferenceAccuracy(base.PromptMetric):
    """Share of preference pairs whose chosen response has the higher score; a tie counts as half.

    The score is the implicit reward log π(y|x) − log π_ref(y|x) for a policy (β > 0 does not change
    the order) and the model's score for a reward model, so both kinds are judged by the same number.
    A tie counts as half, so that a constant score gives 50 %, not 0 %.
    """

    of: ClassVar[Of] = "scores"
    order = 30
    version = "1.1.0"
    inputs = base.PAIR_SCORES
    measures: ClassVar = (ACCURACY,)
    beyond: ClassVar = {
        "margin": "mean of chosen minus rejected score",
        "ties": "share of pairs with two equal scores",
    }
    source = """@article{rafailov2023dpo,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and others},
  journal={arXiv:2305.18290}, year={2023}}"""

    def beside(self, **inputs: Any) -> dict[str, Any]:
        """Return mean margin and share of ties."""
        margin = np.subtract(inputs["chosen_score"], inputs["rejected_score"])
        return {"margin": float(np.mean(margin)), "ties": float(preference_ties.per_prompt(**inputs).mean())}
