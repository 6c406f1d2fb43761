"""What detectors read, what they return, and how they are registered. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preflab.eval.records.columns import column, prompt_groups
from preflab.eval.records.comparison import Finding, Severity
from preflab.eval.records.records import Records
from preflab.eval.statistics import Estimate, interval

Array = NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """All that is known of one training run. Whatever is absent keeps silent the detectors that need it.

    Attributes:
        metrics: the lines of the run's ``metrics.jsonl``, in order.
        records: the evaluation of the trained model.
        baseline: the evaluation of the policy that training started from, on the same prompts and pairs.
        settings: fields of the method's and the training's configs, by name.
        scale: what a difference of ``chosen_score`` and ``rejected_score`` is multiplied by to be the log odds that
            the model claims: β for a policy, the head's deviation for a reward model whose scores were divided by it.
        course: the policy on its way, in order: steps taken and an evaluation each, all on the same prompts, the
            start and the end included.
        training: what training cost, by the fields of `preflab.training.task.TrainRecord`.
    """

    metrics: Sequence[Row] = ()
    records: Records | None = None
    baseline: Records | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    course: Sequence[tuple[float, Records]] = ()
    training: Row = field(default_factory=dict)

    def series(self, name: str) -> Array:
        """Return the finite values of a metric in the order they were logged; empty where it never was."""
        values = [row[name] for row in self.metrics if row.get(name) is not None]
        found = np.array(values, dtype=np.float64)
        return found[np.isfinite(found)]

    def late(self, name: str) -> Estimate | None:
        """Return the mean of a metric over the second half of training; None for fewer than two lines there."""
        values = self.series(name)
        half = values[len(values) // 2 :]
        return interval(half, rate=False) if len(half) > 1 else None

    def sampled(self, name: str) -> Array | None:
        """Return a column of the trained model's samples."""
        return column_of(self.records.samples, name) if self.records else None

    def prompts(self) -> NDArray[np.int64] | None:
        """Return which prompt each held-out pair is of; None where none has two pairs."""
        return prompt_groups(self.records.preferences) if self.records else None

    def preferred(self, name: str) -> Array | None:
        """Return a column of the trained model's held-out pairs."""
        return column_of(self.records.preferences, name) if self.records else None


class Shift(NamedTuple):
    """A quantity before and after training, and the change between, with its 95 % interval."""

    before: float
    after: float
    change: Estimate

    def rose(self, by: float = 0.0) -> bool:
        """Whether it rose beyond chance, and by at least `by`."""
        return self.change.low > 0 and self.change.mean >= by

    def fell(self, by: float = 0.0) -> bool:
        """Whether it fell beyond chance, and by at least `by`."""
        return self.change.high < 0 and self.change.mean <= -by

    def __str__(self) -> str:
        low, high = number(self.change.low), number(self.change.high)
        return f"from {number(self.before)} to {number(self.after)} (change {low} to {high})"


UNSEEN: Final = "unseen"
"""What a detector returns where what it looks at is not there, so that it can say neither yes nor no."""

Observed = tuple[Severity, str] | Literal["unseen"] | None


@dataclass(frozen=True)
class Detector:
    """Recognises one symptom: a pure function of the evidence, and what there is to say about it.

    Attributes:
        symptom: its name.
        explanation: what the symptom is.
        looks_at: the metrics and columns that are read.
        threshold: when it fires, and why there.
        advice: what to try.
        observe: returns severity and evidence, None where the symptom is not there, `UNSEEN` where nobody can tell.
    """

    symptom: str
    explanation: str
    looks_at: str
    threshold: str
    advice: str
    observe: Callable[[Evidence], Observed]

    def __call__(self, evidence: Evidence) -> Finding | None:
        """Return the finding, if there is one."""
        return self.examine(evidence)[0]

    def examine(self, evidence: Evidence) -> tuple[Finding | None, bool]:
        """Return the finding, if there is one, and whether what it takes to tell was there."""
        observed = self.observe(evidence)
        if observed is None or observed == UNSEEN:
            return None, observed is None
        return Finding(self.symptom, *observed, self.explanation, self.advice), True


DETECTORS: list[Detector] = []


def detector(
    symptom: str, *, explanation: str, looks_at: str, threshold: str, advice: str
) -> Callable[[Callable[[Evidence], Observed]], Detector]:
    """Register a function as the detector of a symptom.

    Raises:
        ValueError: if the symptom has a detector already.
    """

    def register(observe: Callable[[Evidence], Observed]) -> Detector:
        if any(known.symptom == symptom for known in DETECTORS):
            raise ValueError(f"the symptom {symptom!r} has a detector already; give this one another name")
        DETECTORS.append(Detector(symptom, explanation, looks_at, threshold, advice, observe))
        return DETECTORS[-1]

    return register


# ---- reading -----------------------------------------------------------------------------------------


def column_of(rows: Sequence[Row], name: str) -> Array | None:
    """Return a column of one run's table, ``[N]``; None where no row has it."""
    found = column([rows], name)
    return None if found is None else found[0]


def number(value: float) -> str:
    """Return a number as sentences show it."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


# ---- changes -----------------------------------------------------------------------------------------


def change(before: Array, after: Array, groups: NDArray[np.int64] | None = None) -> Shift:
    """Return the change of paired values ``[N]``: the same prompts, or pairs of such `groups`, before and after."""
    return Shift(float(before.mean()), float(after.mean()), interval(after - before, rate=False, groups=groups))


def sample_shift(evidence: Evidence, value: str | Callable[[Sequence[Row]], Array | None]) -> Shift | None:
    """Return how a column of the samples, or a value made of their rows, changed from the baseline's."""
    pair = paired_samples(evidence)
    return _paired(*pair, value) if pair else None


def preference_shift(evidence: Evidence, name: str) -> Shift | None:
    """Return how a column of the held-out pairs changed from the baseline's."""
    if evidence.records is None or evidence.baseline is None:
        return None
    after, before = evidence.records.preferences, evidence.baseline.preferences
    same = [row.get("row") for row in before] == [row.get("row") for row in after]
    return _paired(before, after, name, evidence.prompts()) if same else None


def paired_samples(evidence: Evidence) -> tuple[Sequence[Row], Sequence[Row]] | None:
    """Return the baseline's samples and the trained model's; None unless both answer the same prompts."""
    if evidence.records is None or evidence.baseline is None:
        return None
    before, after = evidence.baseline.samples, evidence.records.samples
    same = [row.get("prompt") for row in before] == [row.get("prompt") for row in after]
    return (before, after) if before and same else None


def _paired(
    before: Sequence[Row],
    after: Sequence[Row],
    value: str | Callable[[Sequence[Row]], Array | None],
    groups: NDArray[np.int64] | None = None,
) -> Shift | None:
    first, last = (column_of(rows, value) if isinstance(value, str) else value(rows) for rows in (before, after))
    return None if first is None or last is None else change(first, last, groups)


def training_shift(evidence: Evidence, name: str) -> Shift | None:
    """Return how a metric changed from the first quarter of its lines to the last, by Welch's t interval.

    None for fewer than eight lines. Lines share a policy that moves slowly, and so are not quite independent:
    thresholds on the size of the change bear the weight.
    """
    values = evidence.series(name)
    quarter = len(values) // 4
    if quarter < 2:
        return None
    first, last = values[:quarter], values[-quarter:]
    mean = float(last.mean() - first.mean())
    variances = first.var(ddof=1) / quarter, last.var(ddof=1) / quarter
    if sum(variances) == 0:
        return Shift(float(first.mean()), float(last.mean()), Estimate(mean, mean, mean, 2 * quarter))
    from scipy.stats import t

    freedom = sum(variances) ** 2 / (sum(v**2 for v in variances) / (quarter - 1))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(sum(variances))
    return Shift(float(first.mean()), float(last.mean()), Estimate(mean, mean - half, mean + half, 2 * quarter))
