"""Held-out preferences: accuracy, calibration, and what both hang on, over training seeds.

Probabilities are P(chosen ≻ rejected) = σ(scale · margin). The scale is the score's own where it has one: 1 for
a reward model, β for a policy's implicit reward log π/π_ref. Where it is not known, one scale per seed is fitted by
maximum likelihood, each half of the pairs (even and odd rows) under the scale of the other half; that fit
also stands beside an own scale, as ``recalibrated``: what is left of the error when confidence as a whole
is set right.

Pairs of one prompt (``group``), as a ranking of several responses gives them, are not independent. Every interval is
for other prompts, not for other pairs of the same ones, and no half of a fit has a pair whose prompt the other has.
Records without groups are read as one prompt a pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import details_of, measures_of, preference_calibration, probability
from preflab.eval.metrics.likelihood_accuracy import LikelihoodAccuracy
from preflab.eval.metrics.measures import Of, summarise, within
from preflab.eval.metrics.preference_accuracy import ACCURACY
from preflab.eval.records.columns import UNDECIDED, Rows, check_aligned, column, needed, prompt_groups
from preflab.eval.statistics import interval

Array = NDArray[np.float64]
Kind = Literal["implicit reward", "reward"]
PAIRS: tuple[Of, ...] = ("heldout", "scores")


def _explained(*rows: Of) -> dict[str, str]:
    return {measure.key: measure.what for of in rows for measure in [*measures_of(of), *details_of(of)]}


KEYS: dict[str, str] = {
    "score": "what was compared: the implicit reward log π/π_ref of a policy, or a reward model's reward",
    **_explained("scores"),
    "undecided": "number of pairs whose `preference` is 1/2: each counts half in every accuracy, both ways round in "
    "the area, and 0 in the margin",
    "scale": "`value` that turns margins into logits (fitted: mean over seeds and halves; null where the pairs "
    "do not determine one) and its `source`, own or fitted",
    **_explained("logits"),
    "recalibrated": "`scale` and the errors of the probability under a fitted one, where those above are under an own",
    "subsets": "by name: `accuracy` and `n` pairs",
    "subset_mean": "mean of the subsets' accuracies, each subset alike (`accuracy` has each pair alike)",
    "length_buckets": "by chosen minus rejected length from `low` to `high` tokens: `accuracy` and `n` pairs; shorter "
    "and longer chosen responses in up to three buckets of equal mass each, equal lengths in one",
    "length_correlation": "Pearson correlation of the margin with the difference in length",
}
"""The keys of a summary; figures are Estimates."""


def summarise_preferences(seeds: Sequence[Rows], kind: Kind, scale: float | None = None) -> dict[str, Any] | None:
    """Return what held-out pairs say of one method, by the names in `KEYS`; None where there are no pairs.

    Args:
        seeds: for each training seed its rows, the same pairs in the same order: ``row, chosen_score,
            rejected_score`` and, where known, ``subset, chosen_logp, rejected_logp, chosen_length, rejected_length``,
            ``preference`` (share of labels for the chosen response; absent: 1) and ``group`` (the prompt's; absent:
            each pair has one of its own).
        kind: what the scores are.
        scale: turns score differences into log-odds: a policy's β. Default: 1 for a reward, else fitted.

    Raises:
        UserError: if scores or a value beside others are missing, or not finite; with seed and row.
        ValueError: if seeds were scored on different pairs, `kind` is unknown or `scale` is not above 0.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Kind))}")
    if scale is not None and not 0 < scale < np.inf:
        raise ValueError(f"scale is {scale}; it must be above 0, such as the β of the policy's loss")
    if not any(len(rows) for rows in seeds):
        return None
    table, groups = pair_columns(seeds), prompt_groups(seeds[0])
    margin = needed(seeds, "chosen_score") - needed(seeds, "rejected_score")
    right = ACCURACY.table(*ACCURACY.given(table))
    own = scale or (1.0 if kind == "reward" else None)
    fitted = None if own is None else calibration(margin, table["preference"], groups=groups)
    return {
        "score": kind,
        **summarise(measures_of("scores"), table, groups),
        "undecided": int(table["undecided"][0].sum()),
        **calibration(margin, table["preference"], own, groups),
        "recalibrated": fitted and {name: fitted[name] for name in ("scale", *(m.key for m in measures_of("logits")))},
        **by_subset(right, [row.get("subset") for row in seeds[0]], groups),
        **by_length(seeds, right, margin),
    }


def summarise_heldout(seeds: Sequence[Rows]) -> dict[str, Any]:
    """Return what held-out pairs give to a method's own figures; nulls where there are no pairs.

    Args:
        seeds: as those of `summarise_preferences`.
    """
    if not any(len(rows) for rows in seeds):
        return {measure.key: measure.missing() for measure in measures_of("heldout")}
    return summarise(measures_of("heldout"), pair_columns(seeds), prompt_groups(seeds[0]))


def likelihoods(seeds: Sequence[Rows]) -> dict[str, Any]:
    """Return what log-likelihoods alone say of held-out pairs, for want of a reference to set scores against.

    Args:
        seeds: as those of `summarise_preferences`, without scores.
    """
    return summarise(LikelihoodAccuracy.measures, pair_columns(seeds), prompt_groups(seeds[0]))


def pair_columns(seeds: Sequence[Rows]) -> dict[str, Array]:
    """Return the columns ``[S, N]`` that figures read of held-out pairs, those that there are.

    Raises:
        ValueError: if seeds were scored on different pairs.
        UserError: if a value is missing where others are there, or is not finite; with seed and row.
    """
    check_aligned(seeds, "row")
    names = dict.fromkeys(name for of in PAIRS for measure in measures_of(of) for name in measure.reads)
    found = {name: values for name in names if (values := column(seeds, name)) is not None}
    shape, labels = (len(seeds), len(seeds[0])), column(seeds, "preference")
    even = [row.get("preference") == UNDECIDED for row in seeds[0]]
    return {
        **found,
        "preference": np.ones(shape) if labels is None else labels,
        "undecided": np.tile(even, (shape[0], 1)),
    }


def calibration(
    margin: ArrayLike, preference: ArrayLike, scale: float | None = None, groups: ArrayLike | None = None
) -> dict[str, Any]:
    """Return scale, errors and reliability of σ(scale · margin).

    Args:
        margin: ``[S, N]`` chosen minus rejected score.
        preference: ``[S, N]`` share of labels for the chosen response.
        scale: the score's own; None: fitted for each seed, see `eval.metrics.probability.cross_fitted`.
        groups: ``[N]`` which prompt a pair is of, see `eval.records.columns.prompt_groups`.
    """
    margins, labels = np.asarray(margin, dtype=np.float64), np.asarray(preference, dtype=np.float64)
    of_logits = [*measures_of("logits"), *details_of("logits")]
    if scale is None:
        fits = [probability.cross_fitted(*pair, groups) for pair in zip(margins, labels, strict=True)]
        known = [fit for fit in fits if fit is not None]
        if len(known) < len(fits):  # all margins 0, or not one pair wrong: no scale is better than every other
            return {"scale": {"value": None, "source": "fitted"}, **summarise(of_logits, {})}
        logits = np.stack([logit for logit, _ in known])
        found = {"value": float(np.mean([value for _, value in known])), "source": "fitted"}
    else:
        logits, found = scale * margins, {"value": float(scale), "source": "own"}
    return {"scale": found, **summarise(of_logits, {"logit": logits, "preference": labels}, groups)}


def by_subset(right: Array, subsets: Sequence[str | None], groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return accuracy by subset, in order of first sight, and the mean over subsets.

    RewardBench's score (Lambert et al. 2024, arXiv:2403.13787) weights subsets by size inside a section, and
    sections alike: with sections named in place of subsets, the mean over subsets is that score.

    Args:
        right: ``[S, N]``: 1 right, 0.5 tie, 0 wrong.
        subsets: ``[N]`` names; None: of no subset.
        groups: ``[N]`` which prompt a pair is of; None: each of its own.
    """
    names = list(dict.fromkeys(name for name in subsets if name is not None))
    if not names:
        return {"subsets": {}, "subset_mean": None}
    members = [np.flatnonzero([name == own for own in subsets]) for name in names]
    parts, prompts = [right[:, at] for at in members], [_of(groups, at) for at in members]
    summary = {
        name: {ACCURACY.key: _share(part, own), "n": part.shape[1]}
        for name, part, own in zip(names, parts, prompts, strict=True)
    }
    # Mean 0 within each subset: that one subset is easier than another is no sampling error.
    size = sum(part.shape[1] for part in parts)
    means = [part.mean(1, keepdims=True) for part in parts]
    # Times c/(c − 1) of the variance for c prompts, since each subset has a mean of its own taken from it.
    counts = [part.shape[1] if own is None else len(np.unique(own)) for part, own in zip(parts, prompts, strict=True)]
    around = [
        (part - mean) * size / (len(parts) * math.sqrt(part.shape[1] ** 2 * max(count - 1, 1) / count))
        for part, mean, count in zip(parts, means, counts, strict=True)
    ]
    values = np.mean(means, axis=0) + np.concatenate(around, axis=1)
    return {"subsets": summary, "subset_mean": _share(values, _of(groups, np.concatenate(members)))}


def by_length(seeds: Sequence[Rows], right: Array, margin: Array) -> dict[str, Any]:
    """Return accuracy by difference in length, and the correlation of margin and difference.

    Args:
        seeds: rows with ``chosen_length`` and ``rejected_length``; without them there is nothing to return.
        right: ``[S, N]``: 1 right, 0.5 tie, 0 wrong.
        margin: ``[S, N]`` chosen minus rejected score.
    """
    chosen, rejected = column(seeds[:1], "chosen_length"), column(seeds[:1], "rejected_length")
    if chosen is None or rejected is None:
        return {"length_buckets": [], "length_correlation": None}
    longer, groups = (chosen - rejected)[0], prompt_groups(seeds[0])
    buckets = []
    for at in length_buckets(longer):
        low, high = int(longer[at].min()), int(longer[at].max())
        buckets.append({"low": low, "high": high, ACCURACY.key: _share(right[:, at], _of(groups, at)), "n": len(at)})
    if np.ptp(longer) == 0 or (np.ptp(margin, axis=1) == 0).any():
        return {"length_buckets": buckets, "length_correlation": None}
    values = interval(np.stack([correlation(row, longer) for row in margin]), rate=False, groups=groups)
    return {"length_buckets": buckets, "length_correlation": within(values, -1.0, 1.0).as_dict()}


def length_buckets(longer: Array, most: int = 3) -> list[NDArray[np.int64]]:
    """Return the rows of each bucket of length differences, shortest chosen response first.

    Args:
        longer: ``[N]`` chosen minus rejected length.
        most: buckets on either side of 0 (fewer below ten pairs a bucket); equal lengths have one of their own.
    """
    buckets = []
    for rows in (np.flatnonzero(longer < 0), np.flatnonzero(longer == 0), np.flatnonzero(longer > 0)):
        if len(rows):
            at = preference_calibration.equal_mass_bins(longer[rows], most)
            buckets += [rows[at == k] for k in range(at.max() + 1)]
    return buckets


def correlation(x: Array, y: Array) -> Array:
    """Return ``[N]`` values whose mean is Pearson's correlation r, and whose spread is its sampling error.

    ``z_x z_y − r (z_x² + z_y² − 2)/2`` for standardised z: the influence function of r (Devlin et al. 1975),
    moved to mean r.
    """
    first, second = ((values - values.mean()) / values.std() for values in (x, y))
    r = np.mean(first * second)
    return np.asarray(first * second - r * (first**2 + second**2 - 2.0) / 2.0, dtype=np.float64)


def _of(groups: NDArray[np.int64] | None, at: NDArray[np.int64]) -> NDArray[np.int64] | None:
    return None if groups is None else groups[at]


def _share(values: Array, groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
    return ACCURACY.estimate(values, groups=groups).as_dict()
