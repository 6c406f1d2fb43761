"""How far the policy has moved from the reference, exact at every position of its own samples."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import base
from eval.metrics.measures import Measure, Unit


def per_prompt(kl: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: Σ_t KL(π(·|x, y<t) ‖ π_ref(·|x, y<t)) of each response, nats."""
    return base.vectors(kl=kl)[0]


class KlExact(base.PromptMetric):
    """KL(π ‖ π_ref) per response in nats: exact over the vocabulary at each position of a sampled response.

    The next-token KL, Σ_v π(v) log π(v)/π_ref(v), summed over the positions of a response y ~ π. By the chain
    rule its expectation is the KL over whole responses, as that of k1 is; but the choice of token at each
    position is averaged out (Rao-Blackwell), so that it varies less and is never negative beyond rounding.
    Like k1 it is wrong if the responses were not sampled from π itself.
    """

    of = "samples"
    order = 55
    version = "1.0.0"
    inputs: ClassVar = {
        "kl": ("float64", "next-token KL to the reference, summed over the positions of a response y ~ π")
    }
    measures: ClassVar = (
        Measure(
            "kl_exact",
            "KL to the reference, exact over the vocabulary at each position",
            per_prompt,
            ("kl",),
            Unit("nats per response"),
            higher_is_better=False,
            heading="KL, exact at each token",
            shown=("generations",),
        ),
    )
    source = """@article{amini2025better,
  title={Better Estimation of the KL Divergence Between Language Models},
  author={Amini, Afra and Vieira, Tim and Cotterell, Ryan},
  journal={arXiv:2504.10637}, year={2025}}"""
