"""The mean reward of a model's responses."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(reward: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the reward of each response."""
    return base.vectors(reward=reward)[0]


GOLD = Measure(
    "gold_reward",
    "mean reward of the judge",
    per_prompt,
    ("gold",),
    Unit("the reward's own"),
    higher_is_better=True,
    heading="gold reward",
    shown=("table", "ranking"),
    result="reward",
)


class Reward(base.PromptMetric):
    """Mean reward of the responses, one per prompt.

    The same module serves the gold reward (the judge) and the proxy reward (the reward model that the
    method may have been trained against): proxy up and gold down is over-optimisation.
    """

    of = "samples"
    order = 20
    version = "1.0.0"
    inputs: ClassVar = {"reward": ("float64", "reward of the model's response to each prompt")}
    measures: ClassVar = (GOLD,)
    source = """@article{gao2022scaling,
  title={Scaling Laws for Reward Model Overoptimization},
  author={Gao, Leo and Schulman, John and Hilton, Jacob},
  journal={arXiv:2210.10760}, year={2022}}"""

    def columns(self, **inputs: Any) -> dict[str, Any]:
        """Return the rewards as those of the judge."""
        return {"gold": inputs["reward"]}
