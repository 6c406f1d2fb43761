"""One method trained, and judged against the policy it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.pipeline.bringing import Brought
from eval.pipeline.contestants import contest
from eval.pipeline.entries import Entry
from eval.pipeline.expected import below, of_answers
from eval.pipeline.results import Result, about, samples_of, write_manifest
from eval.pipeline.session import Session
from eval.pipeline.yardsticks import baseline, own_judge
from eval.subjects import START, Ground, evaluate_subject
from preflab import ranks
from preflab.errors import UserError
from preflab.experiment.opening import FEWEST
from preflab.progress import expect
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.experiment.foundation import Foundation
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method


@dataclass(frozen=True)
class TrainingConfig:
    """What follows the training of one method."""

    evaluate: bool = option(True, "judge the method on held-out rows; false: train it, and say where the weights are")


TRAIN: dict[str, type] = {"what follows": TrainingConfig}
"""The configs of a session that a recipe for one method takes."""


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
    splits = ("eval_prompts", "heldout") if session.method(name).needs.trains[0] == "policy" else ("heldout",)
    judged = dict.fromkeys(splits, FEWEST)
    with opened(session, name, judged) as (foundation, method):
        return trained(session, foundation, method)


def train_only(session: Session, name: str) -> tuple[Stage, ...]:
    """Train as `train` does, and evaluate nothing: no judge is opened, and no held-out row is looked at.

    Returns:
        The stages that hold the weights, one a seed.

    Raises:
        UserError: for whatever could not finish, before anything is trained.
    """
    with opened(session, name, {}) as (foundation, method):
        write_manifest(session, foundation.experiment)
        expect([*below(foundation, method), *(stage_names(session, foundation, method))])
        return tuple(trained_stages(session, foundation, method, *stood_on(foundation, method)))


@contextmanager
def opened(session: Session, name: str, judged: Mapping[str, int]) -> Iterator[tuple[Foundation, Method]]:
    """Check the settings of a method and of what it stands on, and open the world."""
    session.layers.check((name,))
    method, (start, reward), brought = session.method(name), session.stage_methods(), Brought.by(session)
    check_read(session, brought, method, judged=bool(judged))
    stands_on = () if method.needs.responses == "demonstration" else (start, reward)
    with session.opened([*stands_on, method], judged=judged, doing=[method.label]) as experiment:
        yield brought.foundation(session, experiment, [method.name]), method


def check_read(session: Session, brought: Brought, method: Method, *, judged: bool) -> None:
    """Refuse a reward, or a reward model, that neither a method nor its evaluation, where it is `judged`, would read.

    Raises:
        UserError: naming the option.
    """
    needs, policy = method.needs, method.needs.trains[0] == "policy"
    if brought.rewards and not (policy and (judged or needs.uses("reward"))):
        raise UserError(f"--reward-model: nothing here reads it, {method.label} does not; leave it out")
    # What is given gives the proxy reward besides, whatever the method maximises.
    maximised = (needs.uses("reward") or bool(brought.rewards)) and "reward" not in needs.trains
    brought.check_reward(session, maximised=maximised, judged=policy and judged)


def trained(session: Session, foundation: Foundation, method: Method) -> Result:
    """Do what `train` says, with everything checked and open."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.contests import by_gold
    from eval.comparison.record import summarise_comparison
    from eval.records.comparison import Comparison, Judge

    experiment, policy = foundation.experiment, method.needs.trains[0] == "policy"
    write_manifest(session, experiment)
    names, seeds = stage_names(session, foundation, method), session.run.seeds
    answers = of_answers(session.evaluation, "start") if policy else []
    expect([*below(foundation, method), *names, *answers, *(f"eval-{name}" for name in names)])
    ground = ground_for(session, foundation, method)
    stages = trained_stages(session, foundation, method, ground.sft, ground.reward)
    first = [Contestant("start", [evaluate_subject("start", START, ground)])] if policy else []
    contestants = [*first, contest([ground._replace(seed=seed) for seed in seeds], Entry(method, {}), stages)]
    draws = [baseline(ground)] if policy else []
    ranks.dismiss()
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
    experiment, (sft, rewards) = foundation.experiment, stood_on(foundation, method)
    # On real data the judge is a reward model of its own, which is for comparisons; here, r* or nobody.
    judge = own_judge(foundation, sft, session.evaluation) if experiment.world.gold else None
    return Ground(experiment, session.evaluation, sft, rewards, judge)


def stood_on(foundation: Foundation, method: Method) -> tuple[Stage | None, Rewards | None]:
    """Build the policy that a method starts from and the reward it maximises, where it has any."""
    needs = method.needs
    sft = foundation.given_start() if needs.responses == "demonstration" else foundation.sft()
    uses = needs.uses("reward") or bool(foundation.given)  # a given one gives the proxy reward besides
    return sft, foundation.rewards(sft) if uses and "reward" not in needs.trains else None


def stage_names(session: Session, foundation: Foundation, method: Method) -> list[str]:
    """Return what the method's own stages are called, one a seed."""
    return [foundation.stage_name(method, seed) for seed in session.run.seeds]


def trained_stages(
    session: Session, foundation: Foundation, method: Method, sft: Stage | None, rewards: Stage | Rewards | None
) -> list[Stage]:
    """Train the method with every seed."""
    names = stage_names(session, foundation, method)
    return [
        foundation.experiment.train(name, method, seed=seed, sft=sft, reward=rewards)
        for name, seed in zip(names, session.run.seeds, strict=True)
    ]
