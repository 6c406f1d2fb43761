"""Squared error of predicted preference probabilities on held-out labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base, probability
from preflab.eval.metrics.measures import Measure, Unit, three


def per_prompt(logit: ArrayLike, preference: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return ``[N]``: q (1 − p)² + (1 − q) p² for p = σ(logit) and share of labels q (None: 1)."""
    from scipy.special import expit

    logits, labels = probability.labelled(logit, preference)
    return np.asarray(labels * expit(-logits) ** 2 + (1 - labels) * expit(logits) ** 2, dtype=np.float64)


class PreferenceBrier(base.PromptMetric):
    """Mean squared error of P(chosen ≻ rejected) = σ(logit) against the labels, each label counted by its share.

    Between 0 and 1; a coin's is 0.25. Like the log-loss it rewards calibration and sharpness together, but
    a pair that is confidently wrong costs 1 at the most.
    """

    of = "logits"
    order = 40
    version = "1.0.0"
    inputs = base.PAIR_LOGITS
    measures: ClassVar = (
        Measure(
            "brier",
            "mean squared error of the probability; null without a scale",
            per_prompt,
            ("logit", "preference"),
            Unit("squared probability", three),
            higher_is_better=False,
            heading="Brier",
            shown=("preferences",),
        ),
    )
    source = """@article{brier1950verification,
  title={Verification of Forecasts Expressed in Terms of Probability}, author={Brier, Glenn W.},
  journal={Monthly Weather Review 78(1)}, year={1950}}"""
