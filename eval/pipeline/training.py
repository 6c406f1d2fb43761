"""One method trained, and judged against the policy it started from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.pipeline.bringing import Brought
from eval.pipeline.comparing import contest
from eval.pipeline.entries import Entry
from eval.pipeline.results import Result, about, samples_of, write_manifest
from eval.pipeline.session import Session
from eval.pipeline.yardsticks import baseline, own_judge
from eval.subjects import START, Ground, evaluate_subject
from preflab.errors import UserError

if TYPE_CHECKING:
    from preflab.experiment.foundation import Foundation
    from preflab.method.configured import Method


def train(session: Session, name: str) -> Result:
    """Train a method with every seed of the session, and evaluate it.

    Stages that the method stands on (SFT, reward model) are built first, or reused if the run folder has them.

    Args:
        session: the settings.
        name: of the method: registered, or its place.

    Returns:
        The method compared with where it started, the answers behind them, and the stages that hold the weights.

    Raises:
        UserError: for whatever could not finish, before anything is trained.
    """
    session.layers.check((name,))
    method, (start, reward) = session.method(name), session.stage_methods()
    policy, brought = method.needs.trains[0] == "policy", Brought.by(session)
    if brought.rewards and not policy:
        raise UserError(f"--reward-model: {method.label} trains a reward model and uses none; leave it out")
    stands_on = () if method.needs.responses == "demonstration" else (start, reward)
    judged = ("eval_prompts", "heldout") if policy else ("heldout",)
    with session.opened([*stands_on, method], judged=judged) as experiment:
        return trained(session, brought.foundation(session, experiment), method)


def trained(session: Session, foundation: Foundation, method: Method) -> Result:
    """Do what `train` says, with everything checked and open."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.contests import by_gold
    from eval.comparison.record import summarise_comparison
    from eval.records.comparison import Comparison, Judge

    experiment, policy = foundation.experiment, method.needs.trains[0] == "policy"
    write_manifest(session, experiment)
    ground = ground_for(session, foundation, method)
    seeds = session.run.seeds
    stages = [
        experiment.train(foundation.stage_name(method, seed), method, seed=seed, sft=ground.sft, reward=ground.reward)
        for seed in seeds
    ]
    first = [Contestant("start", [evaluate_subject("start", START, ground)])] if policy else []
    contestants = [*first, contest(ground, Entry(method, {}), stages, seeds)]
    draws = baseline(ground) if policy else []
    summary = summarise_comparison(contestants, baseline=draws, decide=by_gold if ground.judge else None)
    comparison = Comparison(
        **vars(summary),
        baseline="start" if draws else None,
        judge=Judge(name=ground.judge.name, kind="scores", warning=None) if ground.judge else None,
        reward_model=None,
        seeds=tuple(seeds),
        **about(session, experiment),
    )
    return Result(comparison, samples_of(contestants), tuple(stages))


def ground_for(session: Session, foundation: Foundation, method: Method) -> Ground:
    """Build what a method stands on, and no more."""
    needs, experiment = method.needs, foundation.experiment
    sft = foundation.given_start() if needs.responses == "demonstration" else foundation.sft()
    uses = needs.uses("reward") or bool(foundation.given)
    rewards = foundation.rewards(sft) if uses and "reward" not in needs.trains else None
    # On real data the judge is a reward model of its own, which is for comparisons; here, r* or nobody.
    judge = own_judge(foundation, sft, session.evaluation) if experiment.world.gold else None
    return Ground(experiment, session.evaluation, sft, rewards, judge)
