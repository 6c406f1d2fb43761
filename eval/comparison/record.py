"""What was trained and judged, as one comparison: ``comparison.json``, every figure with its 95 % interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from preflab.eval.comparison.budgets import Below, compare_budgets
from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import Decide, by_gold, compare_pairs, play, rank, untested
from preflab.eval.comparison.generations import summarise_generations
from preflab.eval.comparison.humans import Panel, hold_against
from preflab.eval.comparison.laws import course, fit_laws
from preflab.eval.comparison.learning import Learnt, learning_points
from preflab.eval.comparison.preferences import likelihoods, summarise_heldout, summarise_preferences
from preflab.eval.comparison.sentences import headline, sentences
from preflab.eval.comparison.uncertainty import replications
from preflab.eval.diagnosis import Evidence, examine, merge
from preflab.eval.frontier import Point, frontier
from preflab.eval.metrics import details_of, measures_of
from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
from preflab.eval.metrics.measures import summarise as summarise_measures
from preflab.eval.records.columns import needed
from preflab.eval.records.comparison import SCHEMA, Finding, Summary
from preflab.eval.records.figures import Cost, Figures, Method, Preferences, RewardModel
from preflab.eval.records.frontier import Frontier
from preflab.eval.records.records import Records
from preflab.eval.records.tuning import Tuned
from preflab.eval.records.typed import from_json
from preflab.eval.settings import LengthUnit

if TYPE_CHECKING:
    from preflab.eval.frontier import Oracle

Array = NDArray[np.float64]
Row = Mapping[str, Any]

Endpoint = Literal["gold", "win-rate", "equal-kl"]

COSTS = ("steps", "seconds", "prompts", "pairs", "responses", "tokens", "trained_tokens", "sampled_tokens", "flops")


def summarise_comparison(
    contestants: Sequence[Contestant],
    *,
    baseline: Sequence[Sequence[Records]],
    decide: Decide | None,
    oracle: tuple[Oracle, Array | None] | None = None,
    matched: str = "none",
    below: Sequence[Below] = (),
    redrawn: Sequence[str] = (),
    primary: Endpoint | None = None,
    looks: int = 1,
    tuning: Mapping[str, Tuned] | None = None,
    trials: Sequence[Below] = (),
    judge_is_kin: bool = False,
    learnt: Sequence[Learnt] = (),
    people: Panel | None = None,
    length_unit: LengthUnit = "tokens",
) -> Summary:
    """Return what ``comparison.json`` says of the methods.

    Args:
        contestants: the policy that training starts from, then every method, then what a sweep adds to them.
        baseline: draws of answers of the policy that training starts from, of the one that all seeds share or of each
            seed's; win rates are against these.
        decide: who answered better; None where nobody judges.
        oracle: the oracle line, and the gold rewards of the reference's samples ``[N, M]`` if it was drawn from such.
        matched: which budget the methods were given alike.
        below: the stages that they stand on.
        redrawn: what of all that they stand on every seed has its own of.
        primary: the endpoint that the headline answers by; None: gold rewards where there are some, else wins.
        looks: how many comparisons, this one included, the prompts have been used for.
        tuning: of each method that was tuned, the trials that its setting was chosen by.
        trials: what these took.
        judge_is_kin: whether the judge was trained as the reward models were that methods maximised.
        learnt: methods on parts of the preferences.
        people: who judged some of the answers too.
        length_unit: what length-controlled win rates count lengths in.
    """
    primary = primary or ("gold" if decide is by_gold else "win-rate")
    configured = [contestant for contestant in contestants if not contestant.varied]
    policies = [contestant for contestant in configured if contestant.gives == "policy"]
    start = contestants[0]
    tried = _tried(contestants, tuning or {})
    trained = {c.name: list(c.training) for c in configured if c.training and c is not start}
    games = play(policies, decide) if decide else {}
    scored = decide is by_gold and primary != "win-rate"
    tests = compare_pairs(policies, games, scored=scored, start=start) if games else []
    examined = {c.name: examine_seeds(c, start) for c in configured[1:]}
    summary = Summary(
        headline="",
        verdict=(),
        schema=SCHEMA,
        methods={c.name: summarise(c, baseline, decide, tried[c.name], length_unit) for c in configured},
        pairwise=tuple(tests),
        untested=tuple(untested(policies, games) if games else ()),
        ranking=tuple(rank(policies, games, tests) if tests else ()),
        frontier=draw_frontier(contestants[1:], oracle, start),
        overoptimisation=fit_laws(contestants[1:], start),
        training={c.name: {str(at): tuple(rows) for at, rows in enumerate(c.curves)} for c in configured if c.curves},
        diagnosis={name: tuple(merge([found for found, _ in seeds])) for name, seeds in examined.items()},
        budgets=compare_budgets(trained, matched, tried, [*below, *trials]),
        training_seeds=min((len(c.records) for c in policies[1:]), default=1),
        redrawn=tuple(redrawn),
        common=tuple(stage.name for stage in below if not stage.redrawn),
        primary=primary if decide else None,
        looks=looks,
        judge_is_kin=judge_is_kin,
        tuning=tuning or {},
        replications=replications(policies[1:]),
        learning=learning_points(
            learnt, [summarise(one.contestant, baseline, decide, 1, length_unit) for one in learnt]
        ),
        humans=hold_against(policies, games, people) if people and games else None,
        examined={name: _in_all([seen for _, seen in seeds]) for name, seeds in examined.items()},
    )
    return replace(summary, headline=headline(summary, start.name), verdict=tuple(sentences(summary)))


def _tried(contestants: Sequence[Contestant], tuning: Mapping[str, Tuned]) -> Counter[str]:
    """Return how many settings of each method were trained, in trials or for the comparison."""
    tried = Counter(contestant.name for contestant in contestants)
    for name, tuned in tuning.items():
        tried[name] += len(tuned.trials) - 1  # one of which is compared
    return tried


# ---- one method --------------------------------------------------------------------------------------


def summarise(
    contestant: Contestant,
    baseline: Sequence[Sequence[Records]] = (),
    decide: Decide | None = None,
    tried: int = 1,
    length_unit: LengthUnit = "tokens",
) -> Method:
    """Return the estimates of one method over its training seeds.

    Args:
        contestant: the method.
        baseline: draws of answers of the policy that win rates are against, of one for all seeds or of each seed's;
            several draws make them steadier.
        decide: who answered better; None leaves win rates out.
        tried: how many settings of it were trained.
        length_unit: what length-controlled win rates count lengths in.
    """
    seeds = contestant.records
    found: dict[str, Any] = {}
    if contestant.gives == "policy":
        games = _games(seeds, baseline, decide, length_unit) if baseline and decide else {}
        found = summarise_measures(measures_of("games"), games)
        found |= summarise_generations([records.samples for records in seeds])
    found |= summarise_heldout([records.preferences for records in seeds])
    return Method(
        figures=from_json(Figures, found),
        preferences=_preferences(contestant),
        train=summarise_training(contestant.training) if contestant.training else None,
        settings=dict(contestant.settings),
        settings_tried=tried,
    )


def summarise_reward_model(contestant: Contestant) -> RewardModel:
    """Return what there is to say of the reward models, one a training seed, that policies were trained against."""
    row = summarise(contestant)
    return RewardModel(heldout_accuracy=row.figures[HELDOUT_ACCURACY.key], preferences=row.preferences, train=row.train)


def _preferences(contestant: Contestant) -> Preferences | None:
    rows = [records.preferences for records in contestant.records]
    # A reward model's scores are log-odds; what a policy's log-ratios are multiplied by to be such, few methods say.
    policy = contestant.gives == "policy"
    found = summarise_preferences(rows, "implicit reward") if policy else summarise_preferences(rows, "reward", 1.0)
    return None if found is None else from_json(Preferences, found)


def by_likelihood(records: Records) -> Preferences:
    """Return what held-out pairs say of a model without scores: how it ranks them by likelihood."""
    unknown = dict.fromkeys(("score", "undecided", "scale", "recalibrated"))
    empty: dict[str, Any] = {"subsets": {}, "length_buckets": [], **summarise_measures(details_of("logits"), {})}
    return from_json(Preferences, {**unknown, **empty, **likelihoods([records.preferences])})


def _games(
    seeds: Sequence[Records], baseline: Sequence[Sequence[Records]], decide: Decide, length_unit: LengthUnit
) -> dict[str, Array]:
    """Return the games against the baseline, ``[S, D, N]``, on the prompts of which all were decided."""
    met = [baseline[seed % len(baseline)] for seed in range(len(seeds))]
    games = np.array([[decide(records, draw) for draw in draws] for records, draws in zip(seeds, met, strict=True)])
    decided = np.isfinite(games).all((0, 1))
    if not decided.any():
        return {}
    lengths, *others = (_lengths(side, length_unit) for side in (seeds, *met))
    longer = lengths[:, None] - np.stack(others)
    return {"games": games[..., decided], "longer": longer[..., decided]}


def _lengths(side: Sequence[Records], unit: LengthUnit) -> Array:
    """Return how long the answers of several seeds, or draws, are, ``[S, N]``."""
    if unit == "tokens":
        return needed([records.samples for records in side], "length")
    return np.array([[len(row["response"]) for row in records.samples] for records in side], dtype=np.float64)


def summarise_training(records: Sequence[Row]) -> Cost:
    """Return what training cost: means over seeds, null what nobody counted, and the largest peak of memory."""
    found: dict[str, Any] = {}
    for name in COSTS:
        values = [record[name] for record in records if record.get(name) is not None]
        found[name] = float(np.mean(values)) if len(values) == len(records) else None
    return Cost(**found, peak_memory_bytes=max(record["peak_memory_bytes"] for record in records))


# ---- reward against KL -------------------------------------------------------------------------------


def draw_frontier(
    contestants: Sequence[Contestant], oracle: tuple[Oracle, Array | None] | None, start: Contestant
) -> Frontier | None:
    """Return every policy's points, the oracle line and the best-of-n curve; None where rewards are not known.

    Policies that were followed on their way back have curves that begin at the start, whose KL is 0.
    """
    points, origin, seeds = [], [], set[int]()
    for contestant in contestants:
        for one in (contestant, *contestant.back):
            kl, gold = one.kl, one.table("gold")
            if kl is not None and gold is not None:
                points.append(Point(one.name, one.varied, kl, gold, one.table("proxy")))
                seeds.add(len(gold))
        began = start.table("gold")
        if contestant.back and began is not None:
            gold = np.stack([began[seed % len(began)] for seed in range(len(contestant.records))])
            origin.append(Point(contestant.name, {}, np.zeros_like(gold), gold))
    line, rewards = oracle or (None, None)
    paired = len(seeds) == 1 and all(contestant.replicated for contestant in contestants)
    return frontier(points, line, rewards, origin=origin, paired=paired) if points else None


# ---- what went wrong ---------------------------------------------------------------------------------


def examine_seeds(contestant: Contestant, start: Contestant) -> list[tuple[list[Finding], list[str]]]:
    """Return the symptoms in each of a method's training runs, and those that could have been seen there."""
    seeds, moments = [], course(contestant, start)
    for seed, records in enumerate(contestant.records):
        curve = contestant.curves[seed] if contestant.curves else ()
        before = start.records[seed % len(start.records)] if contestant.gives == "policy" else None
        scale = None if before else 1.0
        way = [(moment.varied["step"], moment.records[seed]) for moment in moments]
        cost = contestant.training[seed] if contestant.training and contestant.gives == "policy" else {}
        seeds.append(examine(Evidence(curve, records, before, contestant.settings, scale, way, cost)))
    return seeds


def _in_all(seeds: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return what stands in every list, in the order of the first."""
    return tuple(name for name in seeds[0] if all(name in seen for seen in seeds)) if seeds else ()
