"""How far the policy has moved from the reference, from its own samples."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import base
from eval.metrics.measures import Measure, Unit


def per_prompt(log_ratio: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the k1 estimate log π(y|x) − log π_ref(y|x) of each response, signed."""
    return base.vectors(log_ratio=log_ratio)[0]


def k3(log_ratio: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: ``exp(−l) − 1 + l`` for each log ratio l; never negative, infinite on overflow."""
    ratios = per_prompt(log_ratio)
    with np.errstate(over="ignore"):
        return np.asarray(np.expm1(-ratios) + ratios, dtype=np.float64)


NATS = Unit("nats per response")
KL = Measure(
    "kl",
    "KL to the reference, nats per response: mean of log π/π_ref (k1), signed",
    per_prompt,
    ("log_ratio",),
    NATS,
    higher_is_better=False,
    heading="KL to ref.",
    shown=("table", "ranking"),
)


class KlToReference(base.PromptMetric):
    """KL(π ‖ π_ref) per response in nats, estimated on responses sampled from π.

    The k1 estimate is the mean of log π(y|x) − log π_ref(y|x) summed over the tokens of a response. It is
    unbiased and signed: near the reference it can be negative by chance. It is wrong, not only noisy,
    if the responses were not sampled from π itself (other temperature, top-k, top-p).

    k3 = exp(−l) − 1 + l has the same expectation wherever π covers the support of π_ref, is never negative
    and is less noisy for small KL. Over whole responses its exponential can explode; nothing is clamped,
    and the key is left out where its mean is not finite.
    """

    of = "samples"
    order = 50
    version = "1.0.0"
    inputs: ClassVar = {
        "log_ratio": (
            "float64",
            "log π(y|x) − log π_ref(y|x), summed over response tokens, for one response y ~ π per prompt",
        ),
    }
    measures: ClassVar = (
        KL,
        Measure(
            "kl_k3",
            "the same by k3; null where it is not finite",
            k3,
            ("log_ratio",),
            NATS,
            higher_is_better=False,
            result="k3",
            overflows=True,
        ),
    )
    source = """@misc{schulman2020kl,
  title={Approximating KL Divergence}, author={Schulman, John}, year={2020},
  howpublished={http://joschu.net/blog/kl-approx.html}}"""
