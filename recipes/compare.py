"""Compare methods on one model and one preference data set: PPO or DPO, by how much?

    python recipes/compare.py                                   the embedded reviews world
    python recipes/compare.py --quick                           the same, smaller
    python recipes/compare.py --model M --dataset D             your model, your preferences
    python recipes/compare.py --model M --reward mod:function   your model, a reward of your own
    python recipes/compare.py --dpo.beta 0.2 --ppo.kl-coefficient 0.1 --seeds 0,1,2
    python recipes/compare.py --sweep beta=0.03,0.1,0.3         the frontier of reward against KL
    python recipes/compare.py --snapshots 8                     gold and proxy reward over training

Every method starts from the same SFT adapter, sees the same rows and is judged on the same held-out
pairs and prompts. Interrupted, the same command goes on where it stopped. The output folder gets
comparison.json and report/report.html.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import console, one_line, printable, say
from preflab.settings.fields import as_dict, option
from preflab.settings.training import MOST_STEPS
from preflab.training.budget import Budget, spent_by, under_budget
from recipes.common import Pipeline, Session, check_report
from recipes.course import CourseConfig, follow, taken
from recipes.judging import JudgeSettings, judging, open_judge
from recipes.sweep import Sweep

if TYPE_CHECKING:
    from eval.comparison.contestant import Contestant
    from eval.judges import PairJudge
    from eval.records.records import Table
    from eval.subjects import RewardSubject
    from preflab.disk.stages import Stage
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method

WIDTH = 104  # of the table where there is no terminal to fit it to


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


def main() -> None:
    """Base → SFT → reward model → methods × settings × seeds → evaluation → comparison.json, table and report."""
    from eval.judges.settings import EndpointConfig

    titles = {"comparison": CompareConfig, "course": CourseConfig, "judge": JudgeSettings, "endpoint": EndpointConfig}
    session = Session(__doc__ or "", titles)
    names = session.configs["comparison"].algorithms
    if names == ("list",):
        return list_algorithms()
    check_report(session.configs["comparison"].report)
    entries = check_entries(session, names)
    judge = open_judge(session.configs["judge"], session.configs["endpoint"])
    comparison, contestants = compare(session, entries, judge)
    show(comparison, Path(session.run.output) / "comparison.json")
    if session.configs["comparison"].report:
        write_pages(comparison, answers(contestants), Path(session.run.output) / "report")


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
) -> tuple[dict[str, Any], list[Contestant]]:
    """Train and evaluate everything; return what goes into comparison.json, and the records behind it."""
    methods = [*session.stage_methods(), *(entry.method for entry in entries)]
    experiment = session.open(methods, judged=("eval_prompts", "heldout"))
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise_comparison
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
    comparison = summarise_comparison(
        contestants,
        baseline=baseline,
        decide=judged.decide,
        oracle=pipeline.oracle(sft, judged.scores) if judged.scores else None,
        matched=session.configs["comparison"].match,
    )
    facts = {
        "baseline": "sft",
        "judge": judged.as_dict(),
        "reward_model": judge_rewards(pipeline, rewards, shared),
        "seeds": list(session.run.seeds),
        "config": {
            **session.as_dict(),
            "methods": {e.method.label: e.method.identity() for e in entries if not e.varied},
        },
        "data": experiment.data,
    }
    return {**comparison, **facts, **provenance()}, contestants


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


def judge_rewards(pipeline: Pipeline, rewards: Rewards | None, shared: dict[str, Any]) -> dict[str, Any] | None:
    """Evaluate the reward models that policies learnt from; None where there are none."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import summarise

    if rewards is None or not rewards.stages:
        return None
    records = pipeline.evaluate("reward", rewards, role="reward", **shared)
    row = summarise(Contestant("reward", [records], [stage.record for stage in rewards.stages], gives="reward"))
    return {name: row[name] for name in ("heldout_accuracy", "preferences", "train")}


def contest(
    pipeline: Pipeline,
    entry: Entry,
    stages: Sequence[Stage],
    shared: dict[str, Any],
    course: Sequence[Contestant] = (),
) -> Contestant:
    """Evaluate one method's stages: a policy by its answers, a reward model by its scores of held-out pairs."""
    from eval.comparison.contestant import Contestant, read_curve
    from preflab.method.contract import decoder_of

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


def show(comparison: dict[str, Any], path: Path) -> None:
    """Write comparison.json, print the table and what it says."""
    from eval.report.table import comparison_table
    from preflab.disk.files import write_result

    comparison = write_result(path, comparison)
    page = console(None if sys.stdout.isatty() else WIDTH)
    page.print(comparison_table(comparison))
    for sentence in (comparison["headline"], *comparison["verdict"], *judge_lines(comparison["judge"])):
        page.print(one_line(sentence))
    say(f"written to {path}")


def judge_lines(judge: dict[str, Any] | None) -> list[str]:
    """Return what is to be known of the judge: why not to trust it, and what one that compares says of itself."""
    from eval.judges import judge_sentences

    warning, facts = (judge or {}).get("warning"), judge_sentences(judge)
    lines = [f"Warning, judge: {warning}"] if warning else []
    return [*lines, f"Judge: {(judge or {}).get('name')}. {' '.join(facts)}"] if facts else lines


def answers(contestants: Sequence[Contestant]) -> dict[str, dict[str, Table]]:
    """Return the rows of samples that the report shows, by method and training seed."""
    return {
        contestant.name: {str(seed): records.samples for seed, records in enumerate(contestant.records)}
        for contestant in contestants
        if not contestant.varied and contestant.gives == "policy"
    }


def write_pages(comparison: dict[str, Any], samples: Mapping[str, Mapping[str, Table]], folder: Path) -> None:
    """Write the page, its figures and tables."""
    from eval.report import write_report

    write_report(comparison, samples, folder)
    say(f"report at {folder / 'report.html'}")


def list_algorithms() -> None:
    """Print every registered method with the first line of its module's docstring."""
    from preflab.method import registry

    for name in registry.registered():
        try:
            about = sys.modules[registry.load(name).__module__].__doc__ or ""
        except UserError as error:
            about = f"(cannot be used: {error})"
        print(printable(f"{name:18} {about.strip().partition(chr(10))[0]}"))


if __name__ == "__main__":
    run_recipe(main)
