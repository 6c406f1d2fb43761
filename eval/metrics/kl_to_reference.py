"""How far the policy has moved from the reference: the one estimate that every table, plot and test goes by."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit


def per_prompt(kl: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: an unbiased estimate of the KL from each response, nats."""
    return base.vectors(kl=kl)[0]


NATS = Unit("nats per response")
KL = Measure(
    "kl",
    "KL to the reference: the next-token KL summed over the positions of an answer; of answers chosen among samples, "
    "whose policy has no next-token probabilities, the log-ratio",
    per_prompt,
    ("kl",),
    NATS,
    higher_is_better=False,
    heading="KL to ref.",
    shown=("table", "ranking"),
)


class KlToReference(base.PromptMetric):
    """KL(π ‖ π_ref) per response in nats, from responses y ~ π; tables, plots and comparisons at equal KL read this.

    The next-token KL, Σ_v π(v) log π(v)/π_ref(v), summed over the positions of a response. By the chain rule its
    expectation is the KL over whole responses, as that of the log-ratio is (`kl_log_ratio`); but the choice of token at
    each position is averaged out (Rao-Blackwell), so that it varies less and is never negative beyond rounding. It is
    wrong, not only noisy, if the responses were not sampled from π itself (other temperature, top-k, top-p).

    A policy that chooses among samples (best-of-n) is known by the probabilities of whole responses alone: in the
    pipeline its log-ratios stand in, which are unbiased too (`eval.records.columns.kl_to_reference`).
    """

    of = "samples"
    order = 50
    version = "2.0.0"
    inputs: ClassVar = {
        "kl": ("float64", "next-token KL to the reference, summed over the positions of one response y ~ π per prompt")
    }
    measures: ClassVar = (KL,)
    source = """@article{amini2025better,
  title={Better Estimation of the KL Divergence Between Language Models},
  author={Amini, Afra and Vieira, Tim and Cotterell, Ryan},
  journal={arXiv:2504.10637}, year={2025}}"""
