"""What ``comparison.json`` says of one method: its figures, its held-out preferences, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from preflab.eval.records.typed import INLINE

if TYPE_CHECKING:
    from preflab.eval.statistics import Estimate


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval.

    Attributes:
        mean: of all values.
        low: lower end of the interval.
        high: upper end of the interval.
        n: values behind it, prompts or pairs times training seeds.
        note: why it is not to be trusted, where it is not.
    """

    mean: float
    low: float
    high: float
    n: int
    note: str | None = None

    @classmethod
    def of(cls, estimate: Estimate, note: str | None = None) -> Figure:
        """Return an estimate as a figure."""
        return cls(*estimate, note=note)


Figures = Annotated[Mapping[str, Figure | None], INLINE]
"""Figures by the name of their metric, those of a file standing among its other fields; None: not defined."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What margins are multiplied by to be logits.

    Attributes:
        value: the factor; null where the pairs do not determine one.
        source: ``own`` where the score has one, ``fitted`` where it is made from the pairs.
    """

    value: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pairs of about the same confidence.

    Attributes:
        confidence: mean stated probability of the preferred response.
        accuracy: share of pairs that are ranked as labelled.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        n: pairs.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Recalibrated:
    """Calibration under a scale that is fitted, where the score has one of its own.

    Attributes:
        scale: the fitted one.
        figures: of the metrics of probabilities, by name.
    """

    scale: Scale
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy by another score.

    Attributes:
        accuracy: share of pairs whose chosen response has the higher score, ties as half.
    """

    accuracy: Figure


@dataclass(frozen=True, kw_only=True)
class Subset(Accuracy):
    """Accuracy on a part of the pairs.

    Attributes:
        n: pairs.
    """

    n: int


@dataclass(frozen=True, kw_only=True)
class LengthBucket:
    """Accuracy on pairs whose chosen response is so many tokens longer than the rejected one.

    Attributes:
        low: fewest; null: no bound.
        high: most; null: no bound.
        accuracy: share of pairs whose chosen response has the higher score, ties as half.
        n: pairs.
    """

    low: int | None
    high: int | None
    accuracy: Figure
    n: int


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What held-out pairs say of a method.

    Attributes:
        score: what was compared: the implicit reward log π/π_ref of a policy, or a reward model's reward; null where
            there is neither, and likelihoods alone are known.
        figures: of the metrics of held-out preferences, by name; docs/metrics.md defines each.
        undecided: pairs whose ``preference`` is 1/2: each counts half in every accuracy, both ways round in the area,
            and 0 in the margin; null without a score.
        scale: turns margins into logits; null without a score.
        ece_by_chance: about the calibration error that perfect calibration would show on so many pairs; null without a
            scale.
        reliability: bins of equal mass.
        recalibrated: the calibration under a fitted scale, where the others are under an own one.
        subsets: accuracy of each part that the data name.
        length_buckets: accuracy by the difference in length, chosen minus rejected.
        likelihood: by log π(y|x) as the score.
        normalised_likelihood: by log π(y|x) per token as the score.
    """

    score: str | None
    figures: Figures
    undecided: int | None
    scale: Scale | None
    ece_by_chance: float | None
    reliability: tuple[Bin, ...]
    recalibrated: Recalibrated | None
    subsets: Mapping[str, Subset]
    length_buckets: tuple[LengthBucket, ...]
    likelihood: Accuracy | None
    normalised_likelihood: Accuracy | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training run cost, mean over training seeds; null what not every seed counted.

    Attributes:
        steps: optimiser steps.
        seconds: wall time.
        prompts: prompts seen.
        pairs: pairs compared.
        responses: responses seen.
        tokens: through training.
        trained_tokens: response tokens that a loss was of.
        sampled_tokens: tokens drawn from the policy.
        flops: floating-point operations (docs/budgets.md).
        peak_memory_bytes: the largest of all seeds.
    """

    steps: float | None
    seconds: float | None
    prompts: float | None
    pairs: float | None
    responses: float | None
    tokens: float | None
    trained_tokens: float | None
    sampled_tokens: float | None
    flops: float | None
    peak_memory_bytes: float


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What was asked, hashed: rows of two evaluations are pairs only where these agree.

    Attributes:
        prompts: of the evaluation prompts.
        pairs: of the held-out pairs.
    """

    prompts: str
    pairs: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        figures: of every metric, by name; docs/metrics.md defines each. Win rates and shares of answers won, tied and
            lost are against the baseline; ``demonstration_logp`` is log π per token of held-out chosen responses,
            nats: its fall is the alignment tax.
        preferences: what held-out pairs say of it; null where there are none.
        train: what its training cost; null where nothing was trained.
        settings: its config, field by field.
        settings_tried: how many settings of it were trained.
        kind: what was evaluated (evaluation.json).
        fingerprint: what it was asked (evaluation.json).
    """

    figures: Figures
    preferences: Preferences | None
    train: Cost | None
    settings: Mapping[str, Any]
    settings_tried: int
    kind: str | None = None
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """The reward model that policies were trained against.

    Attributes:
        heldout_accuracy: share of held-out pairs whose chosen response has the higher reward.
        preferences: all that held-out pairs say of it.
        train: what its training cost.
    """

    heldout_accuracy: Figure | None
    preferences: Preferences | None
    train: Cost | None
