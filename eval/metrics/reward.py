"""The mean reward of a model's responses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import base


def per_prompt(reward: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the reward of each response."""
    return base.vectors(reward=reward)[0]


class Reward(base.PromptMetric):
    """Mean reward of the responses, one per prompt.

    The same module serves the gold reward (the judge) and the proxy reward (the reward model that the
    method may have been trained against): proxy up and gold down is over-optimisation.
    """

    higher_is_better = True
    version = "1.0.0"
    inputs: ClassVar = {"reward": ("float64", "reward of the model's response to each prompt")}
    outputs: ClassVar = {
        "reward": "mean reward",
        **base.of_mean("responses"),
    }
    source = """@article{gao2022scaling,
  title={Scaling Laws for Reward Model Overoptimization},
  author={Gao, Leo and Schulman, John and Hilton, Jacob},
  journal={arXiv:2210.10760}, year={2022}}"""
    values = staticmethod(per_prompt)
