"""How undecided a policy is about its next token."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(entropy: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the entropy of each response, mean over its positions, nats per token."""
    return base.vectors(entropy=entropy)[0]


class Entropy(base.PromptMetric):
    """Entropy of the policy's next-token distribution, mean over the positions of its own responses.

    In nats per token, at the temperature that responses were sampled at; each response counts alike, whatever
    its length. exp(entropy) is about the number of tokens the policy chooses among. It falls while a policy
    learns; near 0 the policy is deterministic, and on-policy methods have nothing left to explore.
    """

    of = "samples"
    order = 60
    version = "1.0.0"
    inputs: ClassVar = {"entropy": ("float64", "mean next-token entropy over the positions of each response, nats")}
    measures: ClassVar = (
        Measure(
            "entropy",
            "entropy of the next token, nats per token",
            per_prompt,
            ("entropy",),
            Unit("nats per token"),
            heading="entropy",
            shown=("generations",),
        ),
    )
    source = """@article{shannon1948mathematical,
  title={A Mathematical Theory of Communication}, author={Shannon, Claude E.},
  journal={Bell System Technical Journal 27(3)}, year={1948}}"""
