"""Methods compared: each trained at each setting with each seed, evaluated on the same prompts and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eval.pipeline.bringing import Brought
from eval.pipeline.entries import CompareConfig, Entry, check_entries, check_labels, left, spent, under
from eval.pipeline.expected import of_answers, of_entries, of_foundation, of_yardsticks
from eval.pipeline.following import CourseConfig, follow, taken
from eval.pipeline.judging import JUDGING, judging, local, open_judge
from eval.pipeline.results import Result, about, samples_of, write_manifest
from eval.pipeline.session import Session
from eval.pipeline.yardsticks import baseline, oracle_line, own_judge, subject_of
from eval.subjects import START, Ground, RewardSubject, TrainedReward, evaluate_subject
from preflab.progress import expect
from preflab.rewards.specification import ENDPOINT
from preflab.training.budget import spent_by

if TYPE_CHECKING:
    from eval.comparison.budgets import Below
    from eval.comparison.contestant import Contestant
    from eval.pipeline.judging import Chosen
    from eval.records.figures import RewardModel
    from preflab.disk.stages import Stage
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.foundation import Foundation
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method

COMPARE: dict[str, type] = {"comparison": CompareConfig, "course": CourseConfig, **JUDGING}
"""The configs of a session that `compare` takes."""


def compare(session: Session) -> Result:
    """Train and evaluate methods, all from the same start, on the same rows, judged on the same pairs and prompts.

    Args:
        session: made with the configs `COMPARE`.

    Returns:
        What ``comparison.json`` holds (docs/report.md), and the answers behind it.

    Raises:
        UserError: for whatever could not finish, before anything is trained.
    """
    config = session.config(CompareConfig)
    session = session.capped(config.max_steps)
    entries = check_entries(session)
    judge, brought = open_judge(session.configs), Brought.by(session)
    brought.check_reward(session, maximised=True)
    methods = [*session.stage_methods(), *(entry.method for entry in entries)]
    with session.opened(methods, judged=("eval_prompts", "heldout"), doing=config.algorithms) as experiment:
        return compared(session, experiment, entries, judge, brought)


def compared(
    session: Session, experiment: Experiment, entries: Sequence[Entry], judge: Chosen | None, brought: Brought
) -> Result:
    """Do what `compare` says, with everything checked and open.

    Args:
        session: the settings.
        experiment: the open world and run.
        entries: what is compared.
        judge: who was asked for; None: the world's own.
        brought: what is not trained here.
    """
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise_comparison
    from eval.records.comparison import Comparison

    write_manifest(session, experiment)
    config = session.config(CompareConfig)
    foundation = brought.foundation(session, experiment, [entry.method.name for entry in entries])
    start = foundation.start_label
    check_labels([entry.method.label for entry in entries if not entry.varied], start)
    # 1. What every method shares: the policy they start from, the reward model, the judge.
    answers, course = of_answers(session.evaluation, start), session.config(CourseConfig)
    expect([*of_foundation(foundation), *answers, *of_entries(session, entries, course), "eval-reward"])
    sft = foundation.sft()
    rewards = foundation.rewards(sft)
    maximised = maximised_by(session, rewards, [entry.method for entry in entries], brought)
    own = partial(own_judge, foundation, sft, session.evaluation)
    judged = judging(experiment, session.evaluation, judge, own, maximised, sft)
    ground = Ground(experiment, session.evaluation, sft, rewards, judged.scores)
    expect([*answers, *of_entries(session, entries, course), *of_yardsticks(ground)])
    # 2. That policy, against other draws of itself: it should win half the time.
    draws = baseline(ground)
    cost = [sft.record] if sft and foundation.trains_start else []
    first = Contestant(start, [evaluate_subject(start, START, ground)], cost)
    # 3. Each method, each setting, each seed.
    below = stood_on(foundation, sft, rewards, [entry.method for entry in entries if not entry.varied])
    contestants = [first, *train_entries(session, ground, entries, below)]
    # 4. What all that says.
    summary = summarise_comparison(
        contestants,
        baseline=draws,
        decide=judged.decide,
        oracle=oracle_line(ground),
        matched=config.match,
        below=below,
    )
    comparison = Comparison(
        **vars(summary),
        baseline=start,
        judge=judged.described(),
        reward_model=judge_rewards(ground, brought.rewards),
        seeds=tuple(session.run.seeds),
        **about(session, experiment, methods={e.method.label: e.method.identity() for e in entries if not e.varied}),
    )
    return Result(comparison, samples_of(contestants))


def train_entries(
    session: Session, ground: Ground, entries: Sequence[Entry], below: Sequence[Below] = ()
) -> list[Contestant]:
    """Train and evaluate each method at each setting with each seed; `below` are the stages that they stand on."""
    config, course = session.config(CompareConfig), session.config(CourseConfig)
    budget, seeds, contestants = config.given_budget, session.run.seeds, []
    for method, varied in entries:
        charged = charged_below(below, method, config)
        method = under(left(budget, method, charged), method)
        kept = 0 if varied else taken(course, method)
        stages = [
            ground.experiment.train(
                f"{method.label}-seed{seed}", method, seed=seed, sft=ground.sft, reward=ground.reward, snapshots=kept
            )
            for seed in seeds
        ]
        budget = budget or spent(config, stages[0], charged)
        way = follow(ground, course, method, stages, seeds) if kept and ground.judge else []
        contestants.append(contest(ground, Entry(method, varied), stages, seeds, way))
    return contestants


def stood_on(
    foundation: Foundation, sft: Stage | None, rewards: Rewards | None, methods: Sequence[Method]
) -> list[Below]:
    """Return the stages trained here that methods stand on, with what they cost."""
    from eval.comparison.budgets import Below

    found, policies = [], [method for method in methods if method.needs.responses != "demonstration"]
    if sft is not None and foundation.trains_start and policies:
        found.append(Below(foundation.start_label, [sft.record], [method.label for method in policies]))
    trained = rewards.trained if rewards and not foundation.given else None
    learning = [m.label for m in policies if m.needs.uses("reward") and "reward" not in m.needs.trains]
    if trained and learning:
        found.append(Below("reward model", [stage.record for stage in trained.stages], learning))
    return found


def charged_below(below: Sequence[Below], method: Method, config: CompareConfig) -> float:
    """Return how much of what is matched the stages took that a method stands on; 0 where they are not charged.

    Raises:
        UserError: if one of them did not count it.
    """
    if config.match == "none" or config.charge == "own":
        return 0.0
    used = [(stage.name, record) for stage in below if method.label in stage.users for record in stage.records]
    return sum(spent_by(record, config.match, name).amount for name, record in used)


def maximised_by(
    session: Session, rewards: Rewards | None, methods: Sequence[Method], brought: Brought
) -> list[str | Path]:
    """Return what those methods were given that maximise a reward; nothing where none does."""
    from eval.judges import PLANTED

    if not any(method.needs.trains[0] == "policy" and method.needs.uses("reward") for method in methods):
        return []
    trained = rewards.trained if rewards else None
    gold, world = session.rewards.maximised(session.world) == "gold", session.world
    asked = [world.endpoint().answers for part in world.reward_parts if part.source == ENDPOINT]
    own: list[str | Path] = [PLANTED, *asked] if gold else []
    given = [local(subject.source) for subject in brought.rewards]
    return [*own, *(given or [stage.folder / "reward" for stage in (trained.stages if trained else ())])]


def judge_rewards(ground: Ground, given: Sequence[RewardSubject]) -> RewardModel | None:
    """Evaluate the reward models that policies learnt from, trained or given; None where there are none."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise_reward_model
    from preflab.experiment.rewards import Rewards

    if len(given) == 1:
        records, costs = evaluate_subject("reward", given[0], ground), []
    else:
        rewards = ground.reward if isinstance(ground.reward, Rewards) else None
        models = rewards.trained if rewards else None
        if given and rewards and rewards.function:  # with weights of their own
            models = rewards
        if models is None:
            return None
        records = evaluate_subject("reward", TrainedReward(models), ground)
        costs = [] if given else [stage.record for stage in models.stages]
    return summarise_reward_model(Contestant("reward", [records], costs, gives="reward"))


def contest(
    ground: Ground,
    entry: Entry,
    stages: Sequence[Stage],
    seeds: Sequence[int],
    course: Sequence[Contestant] = (),
) -> Contestant:
    """Evaluate one method's stages: a policy by its answers, a reward model by its scores of held-out pairs.

    Args:
        ground: what all methods share.
        entry: the method at its setting.
        stages: one a seed.
        seeds: of training, and of the sampled answers.
        course: the method on its way, if it was followed.
    """
    from eval.comparison.contestant import Contestant, read_curve

    method = entry.method
    records = [
        evaluate_subject(stage.name, subject_of(method, stage), ground._replace(seed=seed))
        for seed, stage in zip(seeds, stages, strict=True)
    ]
    return Contestant(
        method.label,
        records,
        training=[stage.record for stage in stages],
        curves=[read_curve(stage.folder) for stage in stages],
        settings=method.settings,
        varied=entry.varied,
        gives=method.needs.trains[0],
        course=course,
    )
