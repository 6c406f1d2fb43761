"""How well one threshold on the score tells chosen from rejected responses, over all prompts at once."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit, three


def area(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return the share of (positive, negative) combinations in the right order, ties as half.

    By ranks: ``(R − P(P + 1)/2) / (P·Q)`` with R the sum of the P positives' ranks among all P + Q values,
    mid-ranks for ties (Mann and Whitney 1947).

    Args:
        positive: ``[P]`` scores that should be high.
        negative: ``[Q]`` scores that should be low; not paired with the others.

    Raises:
        ValueError: if either class is empty or a score is not finite.
    """
    from scipy.stats import rankdata

    for name, values in (("positive", positive), ("negative", negative)):
        if not np.size(values):
            raise ValueError(f"no {name} scores; an area needs at least one score of each class")
    high, low = base.vectors(positive=positive)[0], base.vectors(negative=negative)[0]
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def per_prompt(
    chosen_score: ArrayLike, rejected_score: ArrayLike, undecided: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return ``[N]`` values whose mean is the area and whose spread is its sampling error over pairs.

    A pair's value is the share of all rejected scores below its chosen one, plus the share of all chosen
    scores above its rejected one, minus the area: the placements of DeLong et al. (1988), summed within a
    pair because the two responses of a pair share their prompt.

    Args:
        chosen_score: ``[N]``.
        rejected_score: ``[N]``.
        undecided: ``[N]`` where neither response is the better one; None: nowhere. Each pair then stands twice, an
            undecided one the second time with its responses exchanged: each of them is as much a chosen as a rejected
            one, and whichever the data happen to name first makes no difference.
    """
    chosen, rejected = base.vectors(chosen_score=chosen_score, rejected_score=rejected_score)
    if undecided is None or not np.any(undecided):
        return _placements(chosen, rejected)
    first = np.concatenate([chosen, np.where(undecided, rejected, chosen)])
    second = np.concatenate([rejected, np.where(undecided, chosen, rejected)])
    return np.asarray(_placements(first, second).reshape(2, -1).mean(0))


def _placements(chosen: NDArray[np.float64], rejected: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    n = len(chosen)
    ranks = rankdata(np.concatenate([chosen, rejected]))
    below = (ranks[:n] - rankdata(chosen)) / n
    above = 1.0 - (ranks[n:] - rankdata(rejected)) / n
    return np.asarray(below + above - below.mean(), dtype=np.float64)


class PreferenceAuc(base.PromptMetric):
    """Area under the ROC curve of chosen against rejected scores, pooled over all prompts; a tie counts as half.

    It is the chance that a chosen response scores above a rejected one *of any prompt*. Bradley-Terry training
    fixes scores only up to a constant for each prompt, so the area may lie well below the accuracy without
    harm to any comparison within a prompt; it matters where one threshold is to serve all prompts.
    The interval takes pairs as a whole, since the two responses of a pair share their prompt.
    """

    of = "scores"
    order = 36
    version = "1.0.0"
    inputs = base.PAIR_SCORES
    measures: ClassVar = (
        Measure(
            "auc",
            "area under the ROC curve, chosen against rejected scores of all prompts",
            per_prompt,
            ("chosen_score", "rejected_score", "undecided"),
            Unit("area", three),
            higher_is_better=True,
            heading="AUC",
            shown=("preferences",),
            rate=True,
            bounds=(0.0, 1.0),
        ),
    )
    source = """@article{delong1988comparing,
  title={Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves:
    A Nonparametric Approach},
  author={DeLong, Elizabeth R. and DeLong, David M. and Clarke-Pearson, Daniel L.},
  journal={Biometrics 44(3)}, year={1988}}"""
