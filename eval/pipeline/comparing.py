"""Methods compared: each trained at each setting with each seed, evaluated on the same prompts and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from eval.pipeline.following import follow, taken
from eval.pipeline.judging import judging
from eval.pipeline.session import Session
from eval.pipeline.stages import Pipeline
from preflab.errors import UserError
from preflab.experiment.sweep import Sweep
from preflab.method.contract import decoder_of
from preflab.settings.fields import as_dict, option
from preflab.settings.training import MOST_STEPS
from preflab.training.budget import Budget, spent_by, under_budget

if TYPE_CHECKING:
    from eval.comparison.contestant import Contestant
    from eval.judges import PairJudge
    from eval.records.comparison import Comparison
    from eval.records.figures import RewardModel
    from eval.subjects import RewardSubject
    from preflab.disk.stages import Stage
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method


@dataclass(frozen=True)
class CompareConfig:
    """What is compared."""

    algorithms: tuple[str, ...] = option(
        ("dpo", "ppo"), "methods, by name or as package.module:Class or file.py:Class; 'list' names them"
    )
    max_steps: int | None = option(
        None, "optimiser steps of every stage, unless its own max_steps is lower", minimum=1, maximum=MOST_STEPS
    )
    sweep: str | None = option(
        None,
        "train every method at these values of a setting too, as field=value,value; beta stands for kl_coefficient "
        "in methods that sample",
    )
    match: Literal["none", "tokens", "flops", "time"] = option(
        "none", "stop every method at an equal budget: what the first one named spends, or budget"
    )
    budget: float | None = option(None, "how many tokens, FLOPs or seconds (see match)", minimum=1e-9, maximum=1e30)
    report: bool = option(True, "write report/report.html with figures and tables")

    def __post_init__(self) -> None:
        if not self.algorithms:
            raise ValueError("algorithms is empty; name at least one, such as dpo")
        if self.budget is not None and self.match == "none":
            raise ValueError("budget says how much, and match of what: tokens, flops or time")


class Entry(NamedTuple):
    """A method at one setting; `varied` holds what a sweep changed, and is empty for the configured one."""

    method: Method
    varied: dict[str, Any]


def check_entries(session: Session, names: tuple[str, ...]) -> list[Entry]:
    """Build every method at every setting, and those of the stages, before anything is trained."""
    session.check_sections(names)
    methods = [session.method(name) for name in names]
    labels = [method.label for method in methods]
    if len({*labels, "sft"}) != len(labels) + 1:
        raise UserError(
            f"--algorithms names {', '.join(labels)}: each method goes once, and sft is compared anyway; leave it out"
        )
    session.stage_methods()
    kind = session.configs["comparison"].match
    if kind != "none":
        if given_budget(session) is None and methods[0].algorithm.kind == "decoder":
            raise UserError(
                f"--match {kind} takes its budget from the first method, and {labels[0]} trains nothing; name another "
                "first, or give --budget"
            )
        for method in methods:
            under(given_budget(session) or Budget(kind, 1.0), method)
    entries = [Entry(method, {}) for method in methods]
    text = session.configs["comparison"].sweep
    if text is not None:
        sweep = Sweep.parse(text)
        sweep.check(methods)
        entries += [
            Entry(changed, varied)
            for method in methods
            for varied in sweep.settings(method)
            if (changed := session.method(method.name, varied)).identity() != method.identity()
        ]
    return entries


def compare(
    session: Session, entries: list[Entry], judge: RewardSubject | PairJudge | None
) -> tuple[Comparison, list[Contestant]]:
    """Train and evaluate everything; return what goes into comparison.json, and the records behind it."""
    methods = [*session.stage_methods(), *(entry.method for entry in entries)]
    experiment = session.open(methods, judged=("eval_prompts", "heldout"))
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import as_comparison, summarise_comparison
    from preflab.disk.files import write_result
    from preflab.versions import provenance

    pipeline = Pipeline(session, experiment)
    folder = Path(session.run.output)
    write_result(folder / "manifest.json", {"config": session.as_dict(), "data": experiment.data, **provenance()})

    # 1. What every method shares: the SFT policy, the reward model, the judge.
    sft = pipeline.sft()
    rewards = pipeline.rewards(sft)
    maximised = maximised_by(session, rewards, [entry.method for entry in entries])
    judged = judging(experiment, session.evaluation, judge, lambda: pipeline.judge(sft), maximised)
    shared: Any = {"sft": sft, "reward": rewards, "judge": judged.scores}

    # 2. The policy that training starts from, against other draws of itself: it should win half the time.
    baseline = pipeline.baseline(**shared)
    contestants = [Contestant("sft", [pipeline.evaluate("sft", None, **shared)], [sft.record] if sft else [])]

    # 3. Each method, each setting, each seed.
    budget, course = None, session.configs["course"]
    for entry in entries:
        budget = budget or given_budget(session)
        method = entry.method if budget is None else under(budget, entry.method)
        kept = 0 if entry.varied else taken(course, method)
        stages = [
            experiment.train(f"{method.label}-seed{seed}", method, seed=seed, sft=sft, reward=rewards, snapshots=kept)
            for seed in session.run.seeds
        ]
        budget = budget or spent(session, stages[0])
        way = follow(pipeline, course, method, stages, shared) if kept and judged.scores else []
        contestants.append(contest(pipeline, Entry(method, entry.varied), stages, shared, way))

    # 4. What all that says.
    summary = summarise_comparison(
        contestants,
        baseline=baseline,
        decide=judged.decide,
        oracle=pipeline.oracle(sft, judged.scores) if judged.scores else None,
        matched=session.configs["comparison"].match,
    )
    methods_given = {e.method.label: e.method.identity() for e in entries if not e.varied}
    comparison = as_comparison(
        summary,
        baseline="sft",
        judge=judged.described(),
        reward_model=judge_rewards(pipeline, rewards, shared),
        seeds=session.run.seeds,
        config={**session.as_dict(), "methods": methods_given},
        data=experiment.data,
    )
    return comparison, contestants


def maximised_by(session: Session, rewards: Rewards | None, methods: Sequence[Method]) -> list[str | Path]:
    """Return what those methods were given that maximise a reward; nothing where none does."""
    from eval.judges import PLANTED

    if not any(method.needs.trains[0] == "policy" and method.needs.uses("reward") for method in methods):
        return []
    if session.rewards.policy_reward == "gold":
        return [PLANTED]
    return [stage.folder / "reward" for stage in rewards.stages] if rewards else []


def given_budget(session: Session) -> Budget | None:
    """Return the budget that the user names."""
    config: CompareConfig = session.configs["comparison"]
    return None if config.match == "none" or config.budget is None else Budget(config.match, config.budget)


def spent(session: Session, stage: Stage) -> Budget | None:
    """Return what the first method spent, where the others are to spend as much."""
    kind = session.configs["comparison"].match
    return None if kind == "none" else spent_by(stage.record, kind, stage.name)


def under(budget: Budget, method: Method) -> Method:
    """Return the method under a budget; one that trains nothing spends none."""
    return method if method.algorithm.kind == "decoder" else under_budget(method, budget)


def judge_rewards(pipeline: Pipeline, rewards: Rewards | None, shared: dict[str, Any]) -> RewardModel | None:
    """Evaluate the reward models that policies learnt from; None where there are none."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise_reward_model

    if rewards is None or not rewards.stages:
        return None
    records = pipeline.evaluate("reward", rewards, role="reward", **shared)
    costs = [stage.record for stage in rewards.stages]
    return summarise_reward_model(Contestant("reward", [records], costs, gives="reward"))


def contest(
    pipeline: Pipeline,
    entry: Entry,
    stages: Sequence[Stage],
    shared: dict[str, Any],
    course: Sequence[Contestant] = (),
) -> Contestant:
    """Evaluate one method's stages: a policy by its answers, a reward model by its scores of held-out pairs."""
    from eval.comparison.contestant import Contestant, read_curve

    method = entry.method
    role, decode = method.needs.trains[0], decoder_of(method.algorithm)
    records = [
        pipeline.evaluate(stage.name, stage, role=role, seed=seed, decode=decode, **shared)
        for seed, stage in zip(pipeline.session.run.seeds, stages, strict=True)
    ]
    return Contestant(
        method.label,
        records,
        training=[stage.record for stage in stages],
        curves=[read_curve(stage.folder) for stage in stages],
        settings={**as_dict(method.config), **as_dict(method.train)},
        varied=entry.varied,
        gives=role,
        course=course,
    )
