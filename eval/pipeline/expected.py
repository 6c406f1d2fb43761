"""Which stages are to come, for their headlines. Nothing else depends on it: who comes unexpected is shown as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.pipeline.following import CourseConfig, taken
from eval.pipeline.judging import compares
from eval.pipeline.learning_curve import LearningCurveConfig, learners, maximises
from eval.pipeline.way_back import shares_of
from preflab.experiment.foundation import NONE, REWARD_MODEL, numbered

if TYPE_CHECKING:
    from eval.pipeline.arena import Arena
    from eval.pipeline.entries import Entry
    from eval.pipeline.session import Session
    from eval.settings import EvalConfig
    from preflab.experiment.foundation import Foundation
    from preflab.method.configured import Method


def of_answers(config: EvalConfig, first: str) -> list[str]:
    """Return the evaluations of where training starts, and of the baseline's draws."""
    return [*["eval-baseline"] * config.baseline_draws, f"eval-{first}"]


def of_entries(session: Session, entries: Sequence[Entry]) -> list[str]:
    """Return what trains every method at every setting with every seed, and what evaluates it, on its way too."""
    names, swept = [], any(entry.varied for entry in entries)
    for entry in entries:
        trained = [f"{entry.method.label}-seed{seed}" for seed in session.run.seeds]
        kept = 0 if entry.varied else taken(session.config(CourseConfig), entry.method)
        more = [*range(kept), *shares_of(session, entry, swept)]
        names += [*trained, *(f"eval-{name}" for name in trained for _ in range(1 + len(more)))]
    return names


def of_comparison(arena: Arena) -> list[str]:
    """Return all that a comparison makes: what methods stand on, evaluations of starts, methods, yardsticks."""
    foundation, evaluation, world = arena.foundation, arena.session.evaluation, arena.experiment.world
    many, start = len(arena.seeds), foundation.start_label
    answers = of_answers(evaluation, start) * (many if arena.redrawn.get(start) else 1)
    trained = of_entries(arena.session, arena.entries)
    judged = arena.is_judged
    sampled = ["reference-samples"] if judged and evaluation.oracle_samples and not world.cut else []
    models = many if arena.redrawn.get(REWARD_MODEL) else int(foundation.reads_models)
    below = of_foundation(foundation, arena.seeds, arena.config.sources)
    scored = ["eval-judge"] if judged and not compares(arena.judge) and world.gold is None else []
    return [*below, *answers, *trained, *sampled, *["eval-reward"] * models, *scored, *of_fewer(arena)]


def of_fewer(arena: Arena) -> list[str]:
    """Return what trains and evaluates methods on parts of the preferences."""
    names, methods = [], learners(arena)
    for fraction in arena.session.config(LearningCurveConfig).parts if methods else ():
        for seed in arena.seeds:
            trained = [f"{entry.method.label}-seed{seed}-of-{fraction:g}" for entry in methods]
            rewards = of_rewards(arena.foundation, seed) if any(map(maximises, methods)) else []
            names += [*rewards, *trained, *(f"eval-{name}" for name in trained)]
    return names


def of_foundation(foundation: Foundation, seeds: Sequence[int] = (0,), redraw: Sequence[str] = ()) -> list[str]:
    """Return what trains the policies that methods start from, the reward models and the judge's own."""
    world = foundation.experiment.world
    judge = ["judge"] if world.gold is None and len(world.gold_pairs) else []
    starts, models = (seeds if source in redraw else (0,) for source in ("start", "reward"))
    found = [name for seed in starts for name in of_start(foundation, seed)]
    return [*found, *(name for seed in models for name in of_rewards(foundation, seed)), *judge]


def of_start(foundation: Foundation, seed: int = 0) -> list[str]:
    """Return what trains the policy that methods of a seed start from, or takes it over."""
    if foundation.begin == NONE:
        return []
    return [numbered(foundation.start_label, seed) if foundation.trains_start else foundation.start_label]


def of_rewards(foundation: Foundation, seed: int = 0) -> list[str]:
    """Return what trains the reward models that methods of a seed maximise, or takes them over."""
    if not foundation.reads_models:
        return []
    if foundation.given:
        return ["reward", *(f"reward-{number}" for number in range(1, len(foundation.given)))]
    return foundation.reward_names(seed)


def below(foundation: Foundation, method: Method) -> list[str]:
    """Return what one method stands on."""
    if method.needs.responses == "demonstration":
        return []
    rewarded = method.needs.uses("reward") and "reward" not in method.needs.trains
    return [*of_start(foundation), *(of_rewards(foundation) if rewarded else [])]
