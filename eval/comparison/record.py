"""What was trained and judged, as one comparison: ``comparison.json``, every figure with its 95 % interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.comparison.budgets import compare_budgets
from eval.comparison.contestant import Contestant
from eval.comparison.contests import Decide, by_gold, compare_pairs, play, rank, untested
from eval.comparison.generations import summarise_generations
from eval.comparison.laws import course, fit_laws
from eval.comparison.preferences import summarise_heldout, summarise_preferences
from eval.comparison.sentences import headline, sentences
from eval.diagnosis import Evidence, Finding, diagnose, merge
from eval.frontier import Point, frontier
from eval.metrics import figures_of
from eval.metrics.figures import summarise as summarise_figures
from eval.records.columns import needed
from eval.records.records import Records

if TYPE_CHECKING:
    from eval.frontier import Oracle

Array = NDArray[np.float64]
Row = Mapping[str, Any]

SCHEMA = 2
COSTS = ("steps", "seconds", "prompts", "pairs", "responses", "tokens", "trained_tokens", "sampled_tokens", "flops")


def summarise_comparison(
    contestants: Sequence[Contestant],
    *,
    baseline: Sequence[Records],
    decide: Decide | None,
    oracle: tuple[Oracle, Array | None] | None = None,
    matched: str = "none",
) -> dict[str, Any]:
    """Return what ``comparison.json`` says of the methods (docs/report.md has every key).

    Args:
        contestants: the policy that training starts from, then every method, then what a sweep adds to them.
        baseline: answers of the policy that training starts from; win rates are against these.
        decide: who answered better; None where nobody judges.
        oracle: the oracle line, and the gold rewards of the reference's samples ``[N, M]`` if it was drawn from such.
        matched: which budget the methods were given alike.
    """
    configured = [contestant for contestant in contestants if not contestant.varied]
    policies = [contestant for contestant in configured if contestant.gives == "policy"]
    start = contestants[0]
    tried = Counter(contestant.name for contestant in contestants)
    trained = {c.name: list(c.training) for c in configured if c.training and c is not start}
    games = play(policies, decide) if decide else {}
    tests = compare_pairs(policies, games, scored=decide is by_gold) if games else []
    comparison: dict[str, Any] = {
        "schema": SCHEMA,
        "methods": {c.name: {**summarise(c, baseline, decide), "settings_tried": tried[c.name]} for c in configured},
        "pairwise": tests,
        "untested": untested(policies, games) if games else [],
        "ranking": rank(policies, games, tests) if tests else [],
        "frontier": draw_frontier(contestants[1:], oracle),
        "overoptimisation": fit_laws(contestants[1:], start),
        "training": {c.name: {str(seed): rows for seed, rows in enumerate(c.curves)} for c in configured if c.curves},
        "diagnosis": {c.name: [finding.as_dict() for finding in examine(c, start)] for c in configured[1:]},
        "budgets": compare_budgets(trained, matched, tried),
        "training_seeds": min((len(c.records) for c in policies[1:]), default=1),
    }
    return {"headline": headline(comparison, start.name), "verdict": sentences(comparison), **comparison}


# ---- one method --------------------------------------------------------------------------------------


def summarise(contestant: Contestant, baseline: Sequence[Records] = (), decide: Decide | None = None) -> dict[str, Any]:
    """Return the estimates of one method over its training seeds.

    Args:
        contestant: the method.
        baseline: answers of the policy that win rates are against; several draws make them steadier.
        decide: who answered better; None leaves win rates out.
    """
    seeds = contestant.records
    policy = contestant.gives == "policy"
    rows = [records.preferences for records in seeds]
    # A reward model's scores are log-odds; what a policy's log-ratios are multiplied by to be such, few methods say.
    preferences = (
        summarise_preferences(rows, "implicit reward") if policy else summarise_preferences(rows, "reward", 1.0)
    )
    summary: dict[str, Any] = {}
    if policy:
        summary = summarise_figures(figures_of("games"), _games(seeds, baseline, decide) if baseline and decide else {})
        summary |= summarise_generations([records.samples for records in seeds])
    summary |= summarise_heldout(rows)
    cost = summarise_training(contestant.training) if contestant.training else None
    return {**summary, "preferences": preferences, "train": cost, "settings": dict(contestant.settings)}


def _games(seeds: Sequence[Records], baseline: Sequence[Records], decide: Decide) -> dict[str, Array]:
    """Return the games against the baseline, ``[S, D, N]``, on the prompts of which all were decided."""
    games = np.array([[decide(records, draw) for draw in baseline] for records in seeds])
    decided = np.isfinite(games).all((0, 1))
    if not decided.any():
        return {}
    lengths, others = (needed([records.samples for records in side], "length") for side in (seeds, baseline))
    longer = lengths[:, None] - others[None]
    return {"games": games[..., decided], "longer": longer[..., decided]}


def summarise_training(records: Sequence[Row]) -> dict[str, Any]:
    """Return what training cost: means over seeds, null what nobody counted, and the largest peak of memory."""
    found: dict[str, Any] = {}
    for name in COSTS:
        values = [record[name] for record in records if record.get(name) is not None]
        found[name] = float(np.mean(values)) if len(values) == len(records) else None
    return {**found, "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records)}


# ---- reward against KL -------------------------------------------------------------------------------


def draw_frontier(
    contestants: Sequence[Contestant], oracle: tuple[Oracle, Array | None] | None
) -> dict[str, Any] | None:
    """Return every policy's points, the oracle line and the best-of-n curve; None where rewards are not known."""
    points = []
    for contestant in contestants:
        kl, gold = contestant.kl, contestant.table("gold")
        if kl is not None and gold is not None:
            points.append(Point(contestant.name, contestant.varied, kl, gold, contestant.table("proxy")))
    line, rewards = oracle or (None, None)
    return frontier(points, line, rewards) if points else None


# ---- what went wrong ---------------------------------------------------------------------------------


def examine(contestant: Contestant, start: Contestant) -> list[Finding]:
    """Return the symptoms in a method's training runs, each once."""
    seeds, moments = [], course(contestant, start)
    for seed, records in enumerate(contestant.records):
        curve = contestant.curves[seed] if contestant.curves else ()
        before = start.records[seed % len(start.records)] if contestant.gives == "policy" else None
        scale = None if before else 1.0
        way = [(moment.varied["step"], moment.records[seed]) for moment in moments]
        seeds.append(diagnose(Evidence(curve, records, before, contestant.settings, scale, way)))
    return merge(seeds)
