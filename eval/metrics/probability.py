"""From scores to the probability that the chosen response is preferred, P = σ(scale · margin).

A reward model trained by Bradley-Terry speaks in these units already: its scale is 1. A policy's implicit
reward log π/π_ref needs its β (Rafailov et al. 2023, arXiv:2305.18290). For any other score one scale is
fitted; every pair then gets the scale that was fitted on pairs other than itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base

FOLDS = 2


def labelled(
    logit: ArrayLike, preference: ArrayLike | None = None, name: str = "logit"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return logits and labels ``[N]``, checked.

    Args:
        logit: ``[N]`` log-odds that the chosen response is preferred.
        preference: ``[N]`` share of labels for the chosen response, 0 to 1; None: it got all of them.
        name: what to call the first in messages.

    Raises:
        ValueError: if a value is not finite, a label is no share, or lengths differ.
    """
    if preference is None:
        preference = np.ones(np.shape(logit))
    logits, labels = base.vectors(**{name: logit, "preference": preference})
    if ((labels < 0) | (labels > 1)).any():
        row = int(np.flatnonzero((labels < 0) | (labels > 1))[0])
        raise ValueError(f"preference[{row}] is {labels[row]}; a share of labels lies between 0 and 1")
    return logits, labels


def winner(logit: NDArray[np.float64], preference: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return ``[N]`` confidence in the response predicted to win, and share of labels that agree; ties agree half."""
    from scipy.special import expit

    agree = np.where(logit > 0, preference, np.where(logit < 0, 1.0 - preference, 0.5))
    return expit(np.abs(logit)), agree


def fit_scale(margin: ArrayLike, preference: ArrayLike | None = None) -> float | None:
    """Return the maximum-likelihood scale, at least 0, of P = σ(scale · margin).

    It solves Σ margin · (preference − σ(scale · margin)) = 0. Not below 0, for the order of the scores is not
    the scale's to turn round: scores that are wrong more than right get 0, a coin's confidence.

    Returns:
        The scale; None where the data set no limit to it: no margin differs from 0, or none is on the wrong side.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    margins, labels = labelled(margin, preference, "margin")
    wrong = np.where(margins > 0, 1.0 - labels, labels)[margins != 0]
    if not wrong.any():
        return None
    unit = float(np.abs(margins).max())
    margins = margins / unit  # any unit of the score is as good: the search is in units of the largest margin

    def slope(scale: float) -> float:
        return float(np.sum(margins * (labels - expit(scale * margins))))

    if slope(0.0) <= 0:
        return 0.0
    top = 1.0
    while slope(top) > 0:
        top *= 2
    return float(brentq(slope, 0.0, top, xtol=1e-12, rtol=1e-12)) / unit


def cross_fitted(
    margin: ArrayLike, preference: ArrayLike | None = None, groups: ArrayLike | None = None
) -> tuple[NDArray[np.float64], float] | None:
    """Return ``[N]`` logits, each under a scale fitted on the other half of the pairs, and the mean of the scales.

    Halves are the even and the odd rows, so that data sorted by subset falls evenly on both; pairs of one prompt
    are in one half, where there are several prompts.

    Args:
        margin: ``[N]`` chosen minus rejected score.
        preference: ``[N]`` share of labels for the chosen response; None: all.
        groups: ``[N]`` which prompt a pair is of, numbered from 0; None: each of its own.

    Returns:
        None where a half does not determine its scale, see `fit_scale`; or where there are fewer than two pairs.
    """
    margins, labels = labelled(margin, preference, "margin")
    if len(margins) < FOLDS:
        return None
    numbers = np.arange(len(margins)) if groups is None else np.asarray(groups)
    fold = (numbers if numbers.max() > 0 else np.arange(len(margins))) % FOLDS
    found = [fit_scale(margins[fold != k], labels[fold != k]) for k in range(FOLDS)]
    scales = [scale for scale in found if scale is not None]
    if len(scales) < FOLDS:
        return None
    return margins * np.array(scales)[fold], float(np.mean(scales))
