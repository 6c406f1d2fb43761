"""What the sampled tokens alone say of the distance to the reference: the log-ratio, a second look at the KL."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.kl_to_reference import NATS
from preflab.eval.metrics.measures import Measure


def per_prompt(log_ratio: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the k1 estimate log π(y|x) − log π_ref(y|x) of each response, signed."""
    return base.vectors(log_ratio=log_ratio)[0]


def k3(log_ratio: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: ``exp(−l) − 1 + l`` for each log ratio l; never negative, infinite on overflow."""
    ratios = per_prompt(log_ratio)
    with np.errstate(over="ignore"):
        return np.asarray(np.expm1(-ratios) + ratios, dtype=np.float64)


class KlLogRatio(base.PromptMetric):
    """The mean of log π(y|x)/π_ref(y|x) over responses y ~ π, in nats: KL(π ‖ π_ref) by k1, signed.

    It is unbiased, and near the reference negative by chance every other time; `kl_to_reference` has the same
    expectation and varies less. The two part beyond chance where responses were not sampled from π itself, which is
    what this one is kept for.

    k3 = exp(−l) − 1 + l has the same expectation wherever π covers the support of π_ref, is never negative
    and is less noisy for small KL. Over whole responses its exponential can explode; nothing is clamped,
    and the key is left out where its mean is not finite.
    """

    of = "samples"
    order = 55
    version = "1.0.0"
    inputs: ClassVar = {
        "log_ratio": (
            "float64",
            "log π(y|x) − log π_ref(y|x), summed over response tokens, for one response y ~ π per prompt",
        ),
    }
    measures: ClassVar = (
        Measure(
            "kl_log_ratio",
            "mean of log π/π_ref (k1), signed",
            per_prompt,
            ("log_ratio",),
            NATS,
            higher_is_better=False,
            heading="log-ratio",
            shown=("sampling",),
        ),
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
