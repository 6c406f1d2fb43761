"""Logistic fits with a penalty on the sum of absolute coefficients, whose weight cross-validation chooses.

This is how AlpacaEval 2 fits its model of wins (``alpaca_eval/metrics/glm_winrate.py``, version 0.6.6), which has
scikit-learn's `LogisticRegressionCV` do it (penalty l1, no intercept, ten weights, five folds, scored by log loss, and
fitted again on everything). The problem is convex: what is found here is its minimum, where liblinear stops within its
tolerance of 1e-4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 5
WEIGHTS = np.logspace(-4, 4, 10)
"""Of the games against the penalty, smallest first; of equally good ones the first is taken."""


class Lasso(NamedTuple):
    """A fit of ``logit P = theta + phi * feature``.

    Attributes:
        theta: log-odds where the feature is 0.
        phi: log-odds that a feature of 1 adds.
        weight: of the games against the penalty, one of `WEIGHTS`.
    """

    theta: float
    phi: float
    weight: float


def cross_validated(won: Array, feature: Array) -> Lasso:
    """Fit games ``[S, D, N]``, each in [0, 1], by the weight that predicts games best that were left out.

    All games of a prompt are in one fold: they are no evidence for each other. Prompts go to the folds in turn, the
    last first, as scikit-learn's `GroupKFold` has it for one game a prompt.
    """
    fold = np.broadcast_to((won.shape[-1] - 1 - np.arange(won.shape[-1])) % FOLDS, won.shape)
    loss = np.zeros(len(WEIGHTS))
    for held_out in range(FOLDS):
        test = fold == held_out
        for at, weight in enumerate(WEIGHTS):
            theta, phi = _fitted(won[~test], feature[~test], weight)
            logit = theta + phi * feature[test]
            loss[at] += (np.logaddexp(0.0, logit) - won[test] * logit).mean()
    best = float(WEIGHTS[int(loss.argmin())])
    return Lasso(*_fitted(won.ravel(), feature.ravel(), best), best)


def _fitted(won: Array, feature: Array, weight: float) -> tuple[float, float]:
    """Return θ and φ that minimise |θ| + |φ| + weight · (log losses of the games), ``[n]`` each."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def objective(x: Array) -> tuple[float, Array]:
        # Each coefficient is a difference of two that are not negative, so that the penalty has a gradient.
        logit = (x[0] - x[1]) + (x[2] - x[3]) * feature
        missing = weight * (expit(logit) - won)
        theta, phi = missing.sum(), (missing * feature).sum()
        value = x.sum() + weight * (np.logaddexp(0.0, logit) - won * logit).sum()
        return float(value), 1.0 + np.array([theta, -theta, phi, -phi])

    x = minimize(
        objective,
        np.zeros(4),
        jac=True,
        bounds=[(0.0, None)] * 4,
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-10},
    ).x
    return float(x[0] - x[1]), float(x[2] - x[3])
