"""Whether a predicted preference probability of 80 % comes true in 80 % of the held-out pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval import statistics
from preflab.eval.metrics import base, probability
from preflab.eval.metrics.measures import PERCENT, Measure, Unit, Whole, three

Array = NDArray[np.float64]
BINS, PAIRS_PER_BIN = 10, 10


def equal_mass_bins(values: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """Return ``[N]`` the bin of each value, 0 upwards: at most `bins`, about equally full, none empty.

    Equal values share a bin, so that no bin depends on the order of rows; there are no more bins than one for
    ten values, because an error is not seen in fewer.

    Raises:
        ValueError: if `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    bins = max(1, min(bins, len(values) // PAIRS_PER_BIN))
    edges = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1].astype(np.int64)


def bin_means(values: NDArray[np.float64], bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``[K]``: the mean of `values` in each bin."""
    return np.asarray(np.bincount(bins, values) / np.bincount(bins), dtype=np.float64)


def per_prompt(logit: ArrayLike, preference: ArrayLike | None = None, *, bins: int = BINS) -> NDArray[np.float64]:
    """Return ``[N]`` values whose mean is the expected calibration error, exactly.

    ECE = Σ_b (n_b/N)·|confidence_b − accuracy_b|, which is the mean over pairs of ±(confidence − agreement)
    with the sign of the pair's bin.
    """
    confidence, agree = probability.winner(*probability.labelled(logit, preference))
    at = equal_mass_bins(confidence, bins)
    return np.asarray(np.sign(bin_means(confidence - agree, at))[at] * (confidence - agree), dtype=np.float64)


def by_chance(logit: ArrayLike, *, bins: int = BINS) -> float:
    """Return about the calibration error that a perfectly calibrated model would show with these confidences.

    The gap of a bin of n pairs is then normal with variance mean(c(1 − c))/n, and E|gap| = sqrt(2/π)·its
    standard deviation; a pair without a predicted winner agrees by half, and adds none. An error near this figure
    says nothing against a model.
    """
    confidence, agree = probability.winner(*probability.labelled(logit))
    at = equal_mass_bins(confidence, bins)
    counts, spread = np.bincount(at), np.where(agree == 0.5, 0.0, confidence * (1.0 - confidence))
    gaps = np.sqrt(2.0 / np.pi * bin_means(spread, at) / counts)
    return float(np.sum(counts * gaps) / len(confidence))


def classwise(logit: ArrayLike, preference: ArrayLike | None = None, *, bins: int = BINS) -> float:
    """Return the calibration error of P(first ≻ second) itself, every pair taken in both orders.

    In the order of the data the first response always won, and a label that never varies cannot be calibrated
    against. In both orders each pair gives (p, q) and (1 − p, 1 − q); bins are of equal mass over all 2N. An
    even number of bins mirrors at 1/2, and the error is that of the predicted winner in half as many bins.
    """
    from scipy.special import expit

    logits, labels = probability.labelled(logit, preference)
    predicted, observed = expit(np.concatenate([logits, -logits])), np.concatenate([labels, 1.0 - labels])
    at = equal_mass_bins(predicted, bins)
    return float(np.abs(bin_means(predicted - observed, at)) @ np.bincount(at) / len(at))


def reliability(
    logit: ArrayLike, preference: ArrayLike | None = None, *, bins: int = BINS, pair: ArrayLike | None = None
) -> list[dict[str, float | int]]:
    """Return the bins of a reliability diagram, least confident first.

    Args:
        logit: ``[N]`` log-odds that the chosen response is preferred.
        preference: ``[N]`` share of labels for it; None: all.
        bins: how many at most, of equal mass.
        pair: ``[N]`` which pair each value is of, where several seeds score the same pairs; or which prompt, where
            pairs share prompts.

    Returns:
        For each bin ``confidence`` and ``accuracy`` (means), ``low`` and ``high`` (Wilson interval of the
        accuracy for as many trials as the bin has distinct pairs, or prompts) and ``n`` (values).
    """
    confidence, agree = probability.winner(*probability.labelled(logit, preference))
    at = equal_mass_bins(confidence, bins)
    pairs = np.arange(len(at)) if pair is None else np.asarray(pair)
    rows: list[dict[str, float | int]] = []
    for k, accuracy in enumerate(bin_means(agree, at).tolist()):
        low, high = statistics.wilson(accuracy, len(np.unique(pairs[at == k])))
        mean = float(confidence[at == k].mean())
        rows.append({"confidence": mean, "accuracy": accuracy, "low": low, "high": high, "n": int((at == k).sum())})
    return rows


def _by_chance(logit: Array, *, groups: ArrayLike | None) -> float:
    """Return the mean of `by_chance` over seeds, of logits ``[S, N]``."""
    return float(np.mean([by_chance(row) for row in logit]))


def _reliability(logit: Array, preference: Array, *, groups: ArrayLike | None) -> list[dict[str, float | int]]:
    """Return the bins of all seeds together, of logits and labels ``[S, N]``."""
    pair = np.tile(np.arange(logit.shape[1]) if groups is None else groups, len(logit))
    return reliability(logit.ravel(), preference.ravel(), pair=pair)


class PreferenceCalibration(base.PromptMetric):
    """Expected calibration error of the predicted winner's probability σ(|logit|), in equal-mass bins.

    Pairs are put by confidence into ten bins of equal mass (fewer below 100 pairs); the error is the mean
    over pairs of |mean confidence − share of agreeing labels| of the bin. Bins of equal mass see what bins of
    equal width hide where most confidences are alike. A finite sample shows some error even where calibration
    is perfect: `by_chance` says how much, and an error is evidence only above it. The interval treats the bins
    and the signs of their gaps as fixed; it is too narrow where the error is near `by_chance`.
    """

    of = "logits"
    order = 42
    version = "1.0.1"
    inputs = base.PAIR_LOGITS
    measures: ClassVar = (
        Measure(
            "ece",
            "expected calibration error; null without a scale",
            per_prompt,
            ("logit", "preference"),
            Unit("probability", three),
            higher_is_better=False,
            heading="ECE",
            shown=("preferences",),
            bounds=(0.0, 1.0),
        ),
    )
    details: ClassVar = (
        Whole(
            "ece_by_chance",
            "about the error that perfect calibration would show on so many independent pairs",
            _by_chance,
            ("logit",),
            Unit("probability", three),
        ),
        Whole(
            "reliability",
            "bins of equal mass: `confidence`, `accuracy`, `low`, `high` (Wilson's, for as many trials as the "
            "bin has prompts), `n`",
            _reliability,
            ("logit", "preference"),
            PERCENT,
            absent=list,
        ),
    )
    beyond: ClassVar = {
        "by_chance": "about the error that a perfectly calibrated model would show",
        "classwise": "the error of P(first ≻ second) with every pair taken in both orders",
        "reliability": "the bins: confidence, accuracy with interval (low, high), n",
    }
    source = """@article{nixon2019measuring,
  title={Measuring Calibration in Deep Learning},
  author={Nixon, Jeremy and Dusenberry, Mike and Jerfel, Ghassen and others},
  journal={arXiv:1904.01685}, year={2019}}"""

    def beside(self, **inputs: Any) -> dict[str, Any]:
        """Return the error by chance, the error of both orders, and the bins."""
        alone = {name: value for name, value in inputs.items() if name != "preference"}
        return {
            "by_chance": by_chance(**alone),
            "classwise": classwise(**inputs),
            "reliability": reliability(**inputs),
        }
