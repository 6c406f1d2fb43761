"""Methods compared: each trained at each setting with each seed, evaluated on the same prompts and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from preflab.experiment.foundation import REWARD_MODEL
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
    from preflab.experiment.foundation import Foundation, Replication
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
    from eval.comparison.record import summarise_comparison
    from eval.records.comparison import Comparison

    write_manifest(session, experiment)
    config = session.config(CompareConfig)
    foundation = brought.foundation(session, experiment, [entry.method.name for entry in entries])
    start = foundation.start_label
    check_labels([entry.method.label for entry in entries if not entry.varied], start)
    # 1. What every method shares: the policy they start from, the reward model, the judge.
    redrawn, course = foundation.redrawn(config.redraw), session.config(CourseConfig)
    answers = of_answers(session.evaluation, start) * (len(session.run.seeds) if redrawn.get(start) else 1)
    below = of_foundation(foundation, session.run.seeds, config.redraw)
    expect([*below, *answers, *of_entries(session, entries, course), "eval-reward"])
    replications = foundation.replications(session.run.seeds, config.redraw)
    sft, every = replications[0].sft, list({id(one.rewards): one.rewards for one in replications}.values())
    maximised = maximised_by(session, every, [entry.method for entry in entries], brought)
    own = partial(own_judge, foundation, sft, session.evaluation)
    judged = judging(experiment, session.evaluation, judge, own, maximised, sft)
    grounds = [
        Ground(experiment, session.evaluation, one.sft, one.rewards, judged.scores, seed=one.seed)
        for one in replications
    ]
    ground = grounds[0]._replace(seed=0)
    expect([*answers, *of_entries(session, entries, course), *of_yardsticks(ground)])
    # 2. That policy, against other draws of itself: it should win half the time.
    starts = grounds if redrawn.get(start) else [ground]
    draws = [baseline(one) for one in starts]
    first = started(foundation, starts)
    # 3. Each method, each setting, each seed.
    stands_on = stood_on(foundation, replications, redrawn, [entry.method for entry in entries if not entry.varied])
    contestants = [first, *train_entries(session, grounds, entries, stands_on)]
    # 4. What all that says.
    summary = summarise_comparison(
        contestants,
        baseline=draws,
        decide=judged.decide,
        oracle=oracle_line(ground),
        matched=config.match,
        below=stands_on,
    )
    comparison = Comparison(
        **vars(summary),
        baseline=start,
        judge=judged.described(),
        reward_model=judge_rewards(grounds if redrawn.get(REWARD_MODEL) else [ground], brought.rewards),
        seeds=tuple(session.run.seeds),
        **about(session, experiment, methods={e.method.label: e.method.identity() for e in entries if not e.varied}),
    )
    return Result(comparison, samples_of(contestants))


def started(foundation: Foundation, grounds: Sequence[Ground]) -> Contestant:
    """Evaluate the policy that methods start from: one that all seeds share, or that of each ground."""
    from eval.comparison.contestant import Contestant

    label = foundation.start_label
    cost = [one.sft.record for one in grounds if one.sft and foundation.trains_start]
    answered = [evaluate_subject(label, START, one) for one in grounds]
    return Contestant(label, answered, cost, replicated=len(grounds) > 1)


def train_entries(
    session: Session, grounds: Sequence[Ground], entries: Sequence[Entry], below: Sequence[Below] = ()
) -> list[Contestant]:
    """Train and evaluate each method at each setting with each seed.

    Args:
        session: the settings.
        grounds: what the methods of each seed share.
        entries: what is compared.
        below: the stages that they stand on.
    """
    config, course = session.config(CompareConfig), session.config(CourseConfig)
    budget, contestants = config.given_budget, []
    replicated = any(stage.redrawn for stage in below)
    for method, varied in entries:
        charged = charged_below(below, method, config)
        method = under(left(budget, method, charged), method)
        kept = 0 if varied else taken(course, method)
        stages = [
            ground.experiment.train(
                f"{method.label}-seed{ground.seed}",
                method,
                seed=ground.seed,
                sft=ground.sft,
                reward=ground.reward,
                snapshots=kept,
            )
            for ground in grounds
        ]
        budget = budget or spent(config, stages[0], charged)
        way = follow(grounds, course, method, stages) if kept and grounds[0].judge else []
        contestants.append(contest(grounds, Entry(method, varied), stages, way, replicated=replicated))
    return contestants


def stood_on(
    foundation: Foundation,
    replications: Sequence[Replication],
    redrawn: Mapping[str, bool],
    methods: Sequence[Method],
) -> list[Below]:
    """Return the stages trained here that methods stand on, with what they cost."""
    from eval.comparison.budgets import Below

    policies = [method for method in methods if method.needs.responses != "demonstration"]
    learning = [m for m in policies if m.needs.uses("reward") and "reward" not in m.needs.trains]
    stages: dict[str, tuple[list[Sequence[Stage]], list[Method]]] = {
        foundation.start_label: ([[one.sft] if one.sft else [] for one in replications], policies),
        REWARD_MODEL: ([trained_rewards(one.rewards) for one in replications], learning),
    }
    found = []
    for name, anew in redrawn.items():
        parts, users = stages[name]
        parts = parts if anew else parts[:1]
        records = [stage.record for part in parts for stage in part]
        if records and users:
            found.append(Below(name, records, [m.label for m in users], anew and len(parts) > 1, len(parts)))
    return found


def trained_rewards(rewards: Rewards | None) -> Sequence[Stage]:
    """Return the stages of the reward models trained here among what is maximised."""
    trained = rewards.trained if rewards else None
    return trained.stages if trained else ()


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
    session: Session, rewards: Sequence[Rewards | None], methods: Sequence[Method], brought: Brought
) -> list[str | Path]:
    """Return what those methods were given that maximise a reward; nothing where none does."""
    from eval.judges import PLANTED

    if not any(method.needs.trains[0] == "policy" and method.needs.uses("reward") for method in methods):
        return []
    gold, world = session.rewards.maximised(session.world) == "gold", session.world
    asked = [world.endpoint().answers for part in world.reward_parts if part.source == ENDPOINT]
    own: list[str | Path] = [PLANTED, *asked] if gold else []
    given = [local(subject.source) for subject in brought.rewards]
    trained = [stage.folder / "reward" for one in rewards for stage in trained_rewards(one)]
    return [*own, *(given or trained)]


def judge_rewards(grounds: Sequence[Ground], given: Sequence[RewardSubject]) -> RewardModel | None:
    """Evaluate the reward models that policies learnt from, trained or given; None where there are none.

    Args:
        grounds: one that all seeds share, or those of all seeds.
        given: what was brought along.
    """
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise_reward_model
    from preflab.experiment.rewards import Rewards

    if len(given) == 1:
        records = [evaluate_subject("reward", given[0], grounds[0])]
        return summarise_reward_model(Contestant("reward", records, gives="reward"))
    found, costs = [], []
    for ground in grounds:
        rewards = ground.reward if isinstance(ground.reward, Rewards) else None
        models = rewards.trained if rewards else None
        if given and rewards and rewards.function:  # with weights of their own
            models = rewards
        if models is None:
            return None
        found.append(evaluate_subject("reward", TrainedReward(models), ground))
        costs += [] if given else [stage.record for stage in models.stages]
    return summarise_reward_model(Contestant("reward", found, costs, gives="reward"))


def contest(
    grounds: Sequence[Ground],
    entry: Entry,
    stages: Sequence[Stage],
    course: Sequence[Contestant] = (),
    *,
    replicated: bool = False,
) -> Contestant:
    """Evaluate one method's stages: a policy by its answers, a reward model by its scores of held-out pairs.

    Args:
        grounds: what all methods of a seed share; their seeds are those of the sampled answers too.
        entry: the method at its setting.
        stages: one a seed.
        course: the method on its way, if it was followed.
        replicated: whether something that they stand on is drawn anew by every seed.
    """
    from eval.comparison.contestant import Contestant, read_curve

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
    )
