"""What predicted preference probabilities cost on held-out labels, in nats."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base, probability
from preflab.eval.metrics.measures import Measure, Unit, three


def per_prompt(logit: ArrayLike, preference: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return ``[N]``: −q log σ(z) − (1 − q) log σ(−z) for logit z and share of labels q (None: 1)."""
    logits, labels = probability.labelled(logit, preference)
    return np.asarray(labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits), dtype=np.float64)


class PreferenceLogLoss(base.PromptMetric):
    """Mean negative log-likelihood of the labels under P(chosen ≻ rejected) = σ(logit), in nats.

    It is the Bradley-Terry loss of reward modelling and, for logits β·(log π/π_ref margin), DPO's loss on
    held-out pairs. log 2 = 0.693 is a coin's; one pair that is confidently wrong has no upper limit.
    Computed from the logit, it does not overflow where the probability would round to 0 or 1.
    """

    of = "logits"
    order = 38
    version = "1.0.0"
    inputs = base.PAIR_LOGITS
    measures: ClassVar = (
        Measure(
            "log_loss",
            "nats per pair; null without a scale",
            per_prompt,
            ("logit", "preference"),
            Unit("nats per pair", three),
            higher_is_better=False,
            heading="log-loss",
            shown=("preferences",),
        ),
    )
    source = """@article{good1952rational,
  title={Rational Decisions}, author={Good, I. J.},
  journal={Journal of the Royal Statistical Society B 14(1)}, year={1952}}"""
