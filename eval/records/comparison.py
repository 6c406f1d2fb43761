"""What ``comparison.json`` and ``evaluation.json`` hold; docs/report.md and docs/schema/ are made from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from preflab.disk.files import json_ready, read_object
from preflab.errors import UserError
from preflab.errors.terminal import one_line, shown
from preflab.eval.records.figures import Figure, Method, RewardModel
from preflab.eval.records.frontier import Frontier, Law
from preflab.eval.records.humans import Humans
from preflab.eval.records.learning import LearningPoint
from preflab.eval.records.tuning import Tuned
from preflab.eval.records.typed import from_json
from preflab.eval.records.variance import Replications, Sources

T = TypeVar("T")

SCHEMA: Final = 3
"""Raised when a field changes its meaning or goes."""

Severity = Literal["warning", "serious"]


# ---- methods against each other ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PairTest:
    """The test of two methods.

    Attributes:
        first: a method.
        second: the other.
        measure: what was tested: ``gold_reward``, its mean, or ``win_rate``, the share of wins less that of the other.
        difference: first minus second, with a ``note`` where its interval rests on no spread; without ends where the
            prompts are too few for any.
        win_rate: of the first.
        wins: share of prompts that the first won.
        ties: share of prompts that tied.
        losses: share of prompts that the second won.
        p: of the difference alone, never 0: of one seed each a mid-p of sign flips, enumerated up to 13 prompts and
            drawn beyond; of several seeds approximate, by t quantiles; exact where one side won every prompt.
        p_adjusted: after Holm's correction over all pairs.
        detectable: smallest true difference seen with 80 % power; null where all verdicts are alike, and where prompts
            are too few for any.
        verdict: which is better beyond chance.
        effect: the difference of gold rewards in standard deviations of those of the start's own answers, which are
            taken as known; null where something else was tested, or these answers do not differ.
        sources: of what the variance of the difference is made.
    """

    first: str
    second: str
    measure: str
    difference: Figure
    win_rate: Figure
    wins: Figure
    ties: Figure
    losses: Figure
    p: float
    p_adjusted: float
    detectable: float | None
    verdict: Literal["first", "second", "none"]
    effect: Figure | None = None
    sources: Sources | None = None

    @property
    def winner(self) -> str | None:
        """Which is better beyond chance, if either is."""
        return {"first": self.first, "second": self.second, "none": None}[self.verdict]

    @property
    def loser(self) -> str | None:
        """Which is worse beyond chance, if either is."""
        return {"first": self.second, "second": self.first, "none": None}[self.verdict]


@dataclass(frozen=True, kw_only=True)
class Untested:
    """Two methods that a comparing judge was asked about, but not so that they could be tested.

    Attributes:
        first: a method.
        second: the other.
        reason: why not.
    """

    first: str
    second: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A method's place in the ranking.

    Attributes:
        method: its name.
        rating: Elo points, mean 1000.
        rank_low: the best place that the corrected tests leave open.
        rank_high: the worst place that they leave open.
        separated: whether it won or lost every game, so that its rating has no bound of its own.
    """

    method: str
    rating: Figure
    rank_low: int
    rank_high: int
    separated: bool


@dataclass(frozen=True)
class Charge:
    """What a method took of something, mean over its seeds; null where not all of it was counted.

    Attributes:
        own: its own training.
        alone: with every stage that it stands on, as if nothing else had been trained.
        shared: with its share of these stages, divided equally among the methods that stand on them.
    """

    own: float | None
    alone: float | None
    shared: float | None


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What methods were given alike, and what they cost with all that they stand on.

    Attributes:
        matched: what was meant to be equal: ``none``, ``tokens``, ``flops`` or ``time``.
        equal: quantities that are, within 2 %.
        unequal: quantities that are not.
        unknown: quantities that not every method counted.
        untrained: methods that took no step.
        stands_on: the stages trained here that each method stands on.
        charged: of each method tokens, FLOPs and seconds, with those stages.
        sentence: all of it in words.
    """

    matched: str
    equal: tuple[str, ...]
    unequal: tuple[str, ...]
    unknown: tuple[str, ...]
    untrained: tuple[str, ...]
    stands_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    charged: Mapping[str, Mapping[str, Charge]] = field(default_factory=dict)
    sentence: str


# ---- the whole ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A symptom that a run has.

    Attributes:
        symptom: its name.
        severity: ``serious`` where the run should not be used as it is.
        evidence: one sentence with the numbers.
        explanation: what the symptom is.
        advice: what to try.
    """

    symptom: str
    severity: Severity
    evidence: str
    explanation: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who said which answers are better.

    Attributes:
        name: who.
        kind: ``scores`` where each response gets a number, ``compares`` where two are compared.
        warning: why it is not to be trusted.
        report: of one that compares: its own counts and costs, ``identical`` and ``missing`` answers,
            ``inconsistent`` (share of pairs whose two orders disagree) and ``shown_first`` (preference for the answer
            shown first).
        heldout_accuracy: of one that scores, share of the data's held-out pairs whose chosen response it scores higher,
            how far it agrees with whoever labelled them; null where labels are drawn from a planted reward.
    """

    name: str
    kind: Literal["scores", "compares"]
    warning: str | None
    report: Mapping[str, Any] | None = None
    heldout_accuracy: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a comparison says of methods.

    Attributes:
        headline: the verdict in one sentence.
        verdict: a sentence for every two methods, and for what each method's KL was put to use; and one where equal
            values of a sweep are not equal objectives.
        schema: the version of this form.
        methods: by name, the policy that training starts from first.
        pairwise: the test of every two methods.
        untested: methods that were judged, but not so that they could be tested.
        ranking: best first: by how many others beat a method, then by its rating.
        frontier: gold reward against KL; null where rewards are not known.
        overoptimisation: the law of each method that has two points or more; null where none has.
        training: by method and training seed, rows of ``metrics.jsonl``, at most 200: ``step``, ``loss`` and what the
            method logs.
        diagnosis: symptoms of each method.
        budgets: what methods were given alike.
        training_seeds: how many each method has at least.
        redrawn: what methods stand on of which every seed has its own: stages, and its sample of ``preferences``.
        common: those that all seeds share, which no interval covers.
        primary: the endpoint that the headline answers by; all else is exploratory. Null where nobody judges.
        judge_is_kin: whether the judge is a reward model from the same base and start, by the same recipe, as those
            that methods maximised: errors that they share count as quality.
        tuning: of each method that was tuned, the trials that its setting was chosen by.
        replications: what they give to all of their methods and to each alone; null where methods share none.
        learning: methods on parts of the preferences, by method, from few to many; empty unless asked for.
        looks: how many comparisons, this one included, the test prompts of this run folder have been used for.
        humans: the judge held against verdicts of people; null where none were given.
        examined: of each method the symptoms that could have been seen: what their detectors read was there in every
            training seed. Empty in records of versions that did not write it down.
    """

    headline: str
    verdict: tuple[str, ...]
    schema: Literal[3]
    methods: Mapping[str, Method]
    pairwise: tuple[PairTest, ...]
    untested: tuple[Untested, ...]
    ranking: tuple[Place, ...]
    frontier: Frontier | None
    overoptimisation: Mapping[str, Law] | None
    training: Mapping[str, Mapping[str, tuple[Mapping[str, Any], ...]]]
    diagnosis: Mapping[str, tuple[Finding, ...]]
    budgets: Budgets
    training_seeds: int
    redrawn: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    primary: Literal["gold", "win-rate", "equal-kl"] | None = None
    looks: int = 1
    judge_is_kin: bool = False
    tuning: Mapping[str, Tuned] = field(default_factory=dict)
    replications: Replications | None = None
    learning: tuple[LearningPoint, ...] = ()
    humans: Humans | None = None
    examined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison(Summary):
    """A comparison: what it says of methods, and how it was made.

    Attributes:
        baseline: the method that win rates are against; null where there is none.
        judge: who judged; null: nobody.
        reward_model: what policies were trained against; null: none, or several things.
        seeds: training seeds.
        config: settings as given.
        data: fingerprints of the data.
        command: the recipe, and its options.
        commit: of preflab.
        python: its version.
        machine: system and cores.
        versions: of the libraries.
    """

    baseline: str | None
    judge: Judge | None
    reward_model: RewardModel | None
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    command: tuple[str, ...]
    commit: str | None
    python: str
    machine: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Comparison):
    """An evaluation of models that were not trained here.

    Attributes:
        reference: what policies are held against.
    """

    reference: str


def read_comparison(path: Path) -> Comparison:
    """Read ``comparison.json``.

    Raises:
        UserError: with file and field, if it is not what `Comparison` says, or of another schema.
    """
    return _read(Comparison, path)


def read_evaluation(path: Path) -> Evaluation:
    """Read ``evaluation.json``.

    Raises:
        UserError: with file and field, if it is not what `Evaluation` says, or of another schema.
    """
    return _read(Evaluation, path)


def _read(kind: type[T], path: Path) -> T:
    content = read_object(path)
    if content.get("schema") != SCHEMA:
        found = shown(content["schema"]) if "schema" in content else "none"
        raise UserError(
            f"{path} has schema {found}, and {SCHEMA} is read here: make it again with this version, by the command "
            "it was made by"
        )
    try:
        _, changed = json_ready(content)  # Python reads numbers that JSON does not have, and Infinity of 1e999
        if changed:
            raise ValueError(f"{changed[0]}: JSON has no such number, and what is not known is null")
        return from_json(kind, content)
    except ValueError as error:
        raise UserError(f"{path}: {one_line(error)}; was it changed by hand?") from None
