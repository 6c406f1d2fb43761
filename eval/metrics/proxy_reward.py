"""The mean reward that methods are trained against, of a model's responses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(proxy: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the training reward model's score of each response."""
    return base.vectors(proxy=proxy)[0]


PROXY = Measure(
    "proxy_reward",
    "mean reward of the reward model that methods are trained against",
    per_prompt,
    ("proxy",),
    Unit("the reward model's own"),
    heading="proxy reward",
    shown=("table", "generations"),
)


class ProxyReward(base.PromptMetric):
    """Mean score of the responses under the reward model that methods may have been trained against.

    It rises in training by design, and says how far a method went towards its reward, not how good it is: see
    `reward` for the judge's. Proxy up and gold down is over-optimisation.
    """

    of = "samples"
    order = 25
    version = "1.0.0"
    inputs: ClassVar = {"proxy": ("float64", "training reward model's score of the response to each prompt")}
    measures: ClassVar = (PROXY,)
    source = """@article{gao2022scaling,
  title={Scaling Laws for Reward Model Overoptimization},
  author={Gao, Leo and Schulman, John and Hilton, Jacob},
  journal={arXiv:2210.10760}, year={2022}}"""
