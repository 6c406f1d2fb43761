"""Who takes part in a comparison: methods trained and evaluated, and what they started from and maximised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from preflab.eval.pipeline.entries import CompareConfig, Entry, left, spent, under
from preflab.eval.pipeline.following import CourseConfig, follow, taken
from preflab.eval.pipeline.standing import charged_below
from preflab.eval.pipeline.way_back import WayBackConfig, shares_of, way_back
from preflab.eval.pipeline.yardsticks import subject_of
from preflab.eval.subjects import START, Ground, RewardSubject, TrainedReward, evaluate_subject

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.budgets import Below
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.pipeline.session import Session
    from preflab.eval.records.figures import RewardModel
    from preflab.experiment.foundation import Foundation
    from preflab.training.budget import Budget


def started(foundation: Foundation, grounds: Sequence[Ground]) -> Contestant:
    """Evaluate the policy that methods start from: one that all seeds share, or that of each ground."""
    from preflab.eval.comparison.contestant import Contestant

    label = foundation.start_label
    cost = [one.sft.record for one in grounds if one.sft and foundation.trains_start]
    answered = [evaluate_subject(label, START, one) for one in grounds]
    return Contestant(label, answered, cost, replicated=len(grounds) > 1)


def train_entries(
    session: Session,
    grounds: Sequence[Ground],
    entries: Sequence[Entry],
    below: Sequence[Below] = (),
    budget: Budget | None = None,
    *,
    replicated: bool = False,
) -> list[Contestant]:
    """Train and evaluate each method at each setting with each seed.

    Args:
        session: the settings.
        grounds: what the methods of each seed share.
        entries: what is compared.
        below: the stages that they stand on.
        budget: what each is under; None: the given one, or else what the first of them spends.
        replicated: whether something that they stand on is drawn anew by every seed.
    """
    config, course, contestants = session.config(CompareConfig), session.config(CourseConfig), []
    budget = budget or config.given_budget
    for entry in entries:
        charged = charged_below(below, entry.method, config)
        entry = entry._replace(method=under(left(budget, entry.method, charged), entry.method))
        stages = [trained_stage(session, ground, entry) for ground in grounds]
        budget = budget or spent(config, stages[0], charged)
        kept = followed(session, entry) and grounds[0].judge
        way = follow(grounds, course, entry.method, stages) if kept else []
        shares = shares_of(session, entry, config.sweep is not None)
        by = session.config(WayBackConfig).interpolate_by
        back = way_back(grounds, entry.method.label, shares, stages, by)
        contestants.append(contest(grounds, entry, stages, way, back, replicated=replicated))
    return contestants


def trained_stage(session: Session, ground: Ground, entry: Entry) -> Stage:
    """Train a method at a setting with the seed of a ground."""
    return ground.experiment.train(
        f"{entry.method.label}-seed{ground.seed}",
        entry.method,
        seed=ground.seed,
        sft=ground.sft,
        reward=ground.reward,
        snapshots=followed(session, entry),
    )


def followed(session: Session, entry: Entry) -> int:
    """Return how many snapshots are taken of a method on its way: of configured ones alone."""
    return 0 if entry.varied else taken(session.config(CourseConfig), entry.method)


def judge_rewards(grounds: Sequence[Ground], given: Sequence[RewardSubject]) -> RewardModel | None:
    """Evaluate the reward models that policies learnt from, trained or given; None where there are none.

    Args:
        grounds: one that all seeds share, or those of all seeds.
        given: what was brought along.
    """
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.comparison.record import summarise_reward_model
    from preflab.experiment.rewards import Rewards

    found, costs = [], []
    for ground in grounds[:1] if len(given) == 1 else grounds:
        subject = rewards_judged(ground, given)
        if subject is None:
            return None
        found.append(evaluate_subject("reward", subject, ground))
        if isinstance(subject, TrainedReward) and not given:
            costs += [stage.record for stage in Rewards.of(subject.source).stages]
    return summarise_reward_model(Contestant("reward", found, costs, gives="reward"))


def rewards_judged(ground: Ground, given: Sequence[RewardSubject]) -> RewardSubject | TrainedReward | None:
    """Return the reward models that the policies of a ground learnt from, as what is evaluated; None without any."""
    from preflab.experiment.rewards import Rewards

    if len(given) == 1:
        return given[0]
    rewards = ground.reward if isinstance(ground.reward, Rewards) else None
    models = rewards.trained if rewards else None
    if given and rewards and rewards.function:  # with weights of their own
        models = rewards
    return None if models is None else TrainedReward(models)


def contest(
    grounds: Sequence[Ground],
    entry: Entry,
    stages: Sequence[Stage],
    course: Sequence[Contestant] = (),
    back: Sequence[Contestant] = (),
    *,
    replicated: bool = False,
) -> Contestant:
    """Evaluate one method's stages: a policy by its answers, a reward model by its scores of held-out pairs.

    Args:
        grounds: what all methods of a seed share; their seeds are those of the sampled answers too.
        entry: the method at its setting.
        stages: one a seed.
        course: the method on its way, if it was followed.
        back: the method on its way back to the start.
        replicated: whether something that they stand on is drawn anew by every seed.
    """
    from preflab.eval.comparison.contestant import Contestant, read_curve

    method = entry.method
    records = [
        evaluate_subject(stage.name, subject_of(method, stage), ground)
        for ground, stage in zip(grounds, stages, strict=True)
    ]
    return Contestant(
        method.label,
        records,
        training=[stage.record for stage in stages],
        curves=[read_curve(stage.folder) for stage in stages],
        settings=method.settings,
        varied=entry.varied,
        gives=method.needs.trains[0],
        replicated=replicated and len(stages) > 1,
        course=course,
        back=back,
    )
