"""How likely a policy finds text that people liked: what alignment costs there."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(chosen_logp: ArrayLike, chosen_length: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: log π(y|x) per token of each pair's chosen response, nats."""
    logps, lengths = base.vectors(chosen_logp=chosen_logp, chosen_length=chosen_length)
    return np.asarray(logps / lengths, dtype=np.float64)


class DemonstrationLogp(base.PromptMetric):
    """Mean log-likelihood per token of held-out chosen responses, in nats.

    What it falls by in training is the alignment tax on text that people liked. Compare with the policy that training
    started from: by itself the figure says how hard the text is to predict.
    """

    of = "heldout"
    order = 90
    version = "1.0.0"
    inputs: ClassVar = {
        "chosen_logp": ("float64", "log π(y|x) of each pair's chosen response, nats"),
        "chosen_length": ("float64", "tokens of each pair's chosen response"),
    }
    measures: ClassVar = (
        Measure(
            "demonstration_logp",
            "nats per token, of held-out chosen responses; the alignment tax",
            per_prompt,
            ("chosen_logp", "chosen_length"),
            Unit("nats per token"),
            higher_is_better=True,
            heading="log π of demonstrations",
            shown=("generations",),
        ),
    )
    source = """@article{ouyang2022training,
  title={Training language models to follow instructions with human feedback},
  author={Ouyang, Long and Wu, Jeff and Jiang, Xu and others},
  journal={arXiv:2203.02155}, year={2022}}"""
