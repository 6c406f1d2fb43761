"""One method trained, and judged against the policy it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from preflab import ranks
from preflab.errors import UserError
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.contestants import contest
from preflab.eval.pipeline.entries import Entry
from preflab.eval.pipeline.footing import Footing, names
from preflab.eval.pipeline.results import Result, about, samples_of, write_manifest
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.workers import WORKERS, at_a_time, check_here, check_workers, crew_of
from preflab.eval.pipeline.yardsticks import BASELINE, baseline, baseline_draws, own_judge, subject_of
from preflab.eval.subjects import START, Ground, evaluate_subject, evaluation_stage
from preflab.execution.executing import execute
from preflab.execution.graph import Graph, Piece
from preflab.experiment.foundation import NONE
from preflab.experiment.foundation import START as START_LABEL
from preflab.experiment.foundation import TRAIN as TRAIN_START
from preflab.experiment.opening import FEWEST
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Run, Stage
    from preflab.experiment.foundation import Foundation
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method


@dataclass(frozen=True)
class TrainingConfig:
    """What follows the training of one method."""

    evaluate: bool = option(
        True,
        "judge the method on held-out rows; false: train it, and say where the weights are",
        brief="judge the method on held-out rows",
    )


TRAIN: dict[str, type] = {"what follows": TrainingConfig, **WORKERS}
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
        build(session, foundation, method, evaluate=False)
        return tuple(trained_stages(session, foundation, method, *stood_on(foundation, method)))


@contextmanager
def opened(session: Session, name: str, judged: Mapping[str, int]) -> Iterator[tuple[Foundation, Method]]:
    """Check the settings of a method and of what it stands on, and open the world."""
    check_workers(session)
    session.layers.check((name,))
    method, (start, reward), brought = session.method(name), session.stage_methods(), Brought.by(session)
    check_read(session, brought, method, judged=bool(judged))
    stands_on = () if method.needs.responses == "demonstration" else (start, reward)
    check_here(session, (one.name for one in (*stands_on, method)), compares=False)
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
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.comparison.contests import by_gold
    from preflab.eval.comparison.record import summarise_comparison
    from preflab.eval.records.comparison import Comparison, Judge

    experiment, policy = foundation.experiment, method.needs.trains[0] == "policy"
    write_manifest(session, experiment)
    build(session, foundation, method, evaluate=True)
    ranks.dismiss()
    seeds = session.run.seeds
    ground = ground_for(session, foundation, method)
    stages = trained_stages(session, foundation, method, ground.sft, ground.reward)
    first = [Contestant("start", [evaluate_subject("start", START, ground)])] if policy else []
    contestants = [*first, contest([ground._replace(seed=seed) for seed in seeds], Entry(method, {}), stages)]
    draws = [baseline(ground)] if policy else []
    summary = summarise_comparison(
        contestants,
        baseline=draws,
        decide=by_gold if ground.judge else None,
        length_unit=session.evaluation.length_unit,
    )
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
    sft = foundation.given_start() if method.needs.responses == "demonstration" else foundation.sft()
    return sft, foundation.rewards(sft) if uses_reward(foundation, method) else None


def uses_reward(foundation: Foundation, method: Method) -> bool:
    """Whether a method maximises a reward, or a given one is to be the proxy reward besides."""
    needs = method.needs
    return (needs.uses("reward") or bool(foundation.given)) and "reward" not in needs.trains


def stage_names(session: Session, foundation: Foundation, method: Method) -> list[str]:
    """Return what the method's own stages are called, one a seed."""
    return [foundation.stage_name(method, seed) for seed in session.run.seeds]


def trained_stages(
    session: Session, foundation: Foundation, method: Method, sft: Stage | None, rewards: Stage | Rewards | None
) -> list[Stage]:
    """Train the method with every seed."""
    return [
        foundation.experiment.train(name, method, seed=seed, sft=sft, reward=rewards)
        for name, seed in zip(stage_names(session, foundation, method), session.run.seeds, strict=True)
    ]


# ---- the same as a graph -------------------------------------------------------------------------


def build(session: Session, foundation: Foundation, method: Method, *, evaluate: bool) -> None:
    """Build all that trains a method and, if asked to, evaluates it, by as many workers as the session says."""
    run, opens = foundation.experiment.run, partial(training_again, session, method.name, evaluate=evaluate)
    crew = crew_of(session, run, at_a_time(session, timed=False, compares=False), opens)
    execute(run, training_graph(session, foundation, method, evaluate=evaluate), crew)


def training_again(session: Session, name: str, *, evaluate: bool) -> tuple[Run, Graph]:
    """Join the run that trains one method, in another process, and return what it builds."""
    method = session.method(name)
    experiment = session.joined([*session.stage_methods(), method])
    foundation = Brought.by(session).foundation(session, experiment, [method.name])
    return experiment.run, training_graph(session, foundation, method, evaluate=evaluate)


def training_graph(session: Session, foundation: Foundation, method: Method, *, evaluate: bool) -> Graph:
    """Return all that trains a method with every seed and, if asked to, evaluates it."""
    footing, seeds = Footing(foundation), session.run.seeds
    starts = own_start(foundation) if method.needs.responses == "demonstration" else footing.starts(0)
    below = [*starts, *(footing.rewards(0) if uses_reward(foundation, method) else ())]
    called = stage_names(session, foundation, method)
    trained = [
        Piece(
            name if called.count(name) == 1 else f"{name} of seed {seed}",  # that of a start bears no seed
            partial(_train, foundation, method, seed),
            names(below),
            (name,),
        )
        for name, seed in zip(called, seeds, strict=True)
    ]
    if not evaluate:
        return Graph([*below, *trained])
    found = []
    if method.needs.trains[0] == "policy":
        for draw in range(session.evaluation.baseline_draws):
            draws = partial(_draw, session, foundation, method, draw)
            found.append(Piece(f"eval-{BASELINE} {draw + 1}", draws, names(below), (f"eval-{BASELINE}",)))
        begins = partial(_begin, session, foundation, method)
        found.append(Piece("eval-start", begins, names(below), ("eval-start",)))
    for piece, seed in zip(trained, seeds, strict=True):
        (name,), judge = piece.stages, partial(_evaluate, session, foundation, method, seed)
        found.append(Piece(f"eval-{piece.name}", judge, (piece.name,), (f"eval-{name}",)))
    return Graph([*below, *trained, *found])


def own_start(foundation: Foundation) -> list[Piece]:
    """Return where a method starts that trains what others start from: one piece, or none where that is the model."""
    given = foundation.begin not in (NONE, TRAIN_START)
    return [Piece(START_LABEL, foundation.given_start, (), (START_LABEL,))] if given else []


def _train(foundation: Foundation, method: Method, seed: int) -> Stage:
    sft, rewards = stood_on(foundation, method)
    name = foundation.stage_name(method, seed)
    return foundation.experiment.train(name, method, seed=seed, sft=sft, reward=rewards)


def _evaluate(session: Session, foundation: Foundation, method: Method, seed: int) -> None:
    stage, ground = _train(foundation, method, seed), ground_for(session, foundation, method)
    evaluation_stage(stage.name, subject_of(method, stage), ground._replace(seed=seed))


def _draw(session: Session, foundation: Foundation, method: Method, draw: int) -> None:
    evaluation_stage(BASELINE, START, baseline_draws(ground_for(session, foundation, method))[draw])


def _begin(session: Session, foundation: Foundation, method: Method) -> None:
    evaluation_stage("start", START, ground_for(session, foundation, method))
