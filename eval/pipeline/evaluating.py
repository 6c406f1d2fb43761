"""Models evaluated, whoever made them, beside the reference that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from preflab import ranks
from preflab.errors import UserError
from preflab.eval.judges import planted
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.enough import fewest_rows, say_what_is_seen
from preflab.eval.pipeline.judging import JUDGING, JudgeConfig, check_held, judging, local, open_judge, open_people
from preflab.eval.pipeline.results import Result, about
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.yardsticks import BASELINE, baseline
from preflab.eval.records.comparison import Evaluation
from preflab.eval.records.figures import Fingerprint
from preflab.eval.subjects import (
    MOST_SAMPLES,
    START,
    Ground,
    PolicySubject,
    RewardSubject,
    Subject,
    adapter_stage,
    evaluate_subject,
    open_subjects,
)
from preflab.experiment.foundation import AUTO, NONE, TRAIN
from preflab.experiment.opening import FEWEST
from preflab.method import registry
from preflab.progress import expect
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contests import Decide
    from preflab.eval.pipeline.judging import ByAnswers, Chosen
    from preflab.eval.records.comparison import Summary
    from preflab.eval.records.records import Records
    from preflab.eval.settings import LengthUnit
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.rewards import Rewards


@dataclass(frozen=True)
class EvaluateConfig:
    """What is judged."""

    models: tuple[str, ...] = option(
        (), "name=PATH of each, separated by commas or spaces", brief="name=PATH of each", adds=True
    )
    methods: tuple[str, ...] = option(
        (), "methods of your own (file.py:Class) that trained stages of --models: code that may be run, to decode"
    )
    generate: bool = option(True, "let policies answer the prompts; false: score held-out pairs only")
    report: bool = option(True, "write evaluation/report.html with figures and tables")


EVALUATE: dict[str, type] = {"evaluate": EvaluateConfig, **JUDGING}
"""The configs of a session that `evaluate` takes."""


def named_subjects(models: Sequence[str], methods: Sequence[str] = ()) -> dict[str, Subject]:
    """Read ``name=PATH`` of each; a whole run gives one subject for each of its models.

    Args:
        models: ``name=PATH`` of each.
        methods: code that the user names; what a folder names besides, and is not installed, is not run.

    Raises:
        UserError: if one has another form, a name is given twice, or a path names nothing that can be evaluated.
    """
    if not models:
        raise UserError("nothing to judge; name models as --models name=PATH,name=PATH")
    found: dict[str, Subject] = {}
    for item in models:
        name, equals, spec = item.partition("=")
        if not equals or not spec or not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--models: {item!r} must have the form name=PATH, the name of letters, digits, . _ and -")
        opened = open_subjects(name, spec, methods)
        if twice := {"reference", *found} & set(opened):
            raise UserError(f"--models: the name {min(twice)!r} stands for something already; choose another")
        found |= opened
    return found


def check_methods(methods: Sequence[str], subjects: Mapping[str, Subject]) -> None:
    """See that the methods which the user names can be imported, and that a stage was trained by each.

    Raises:
        UserError: if one cannot, or was not.
    """
    used = {s.method[0] for s in subjects.values() if isinstance(s, PolicySubject) and s.method}
    for place in methods:
        registry.load(place)
        if place not in used:
            raise UserError(f"--methods: none of the models is a stage that {place!r} trained; leave it out")


def reference(begin: str, subjects: Mapping[str, Subject]) -> str | None:
    """Return the adapter of the reference; None where it is the bare base.

    Args:
        begin: what ``--sft`` names; ``auto`` is what the named stages started from.
        subjects: what is evaluated.

    Raises:
        UserError: if they started from different ones, or the start is to be trained.
    """
    if begin == TRAIN:
        raise UserError("--sft train: nothing is trained here; name the adapter of the reference, or none")
    if begin != AUTO:
        return None if begin == NONE else begin
    starts = {s.start for s in subjects.values() if isinstance(s, PolicySubject) and s.start}
    if len(starts) > 1:
        raise UserError(f"the models started from different policies; name the reference as --sft: {', '.join(starts)}")
    return next(iter(starts), None)


def maximised_by(subjects: Mapping[str, Subject]) -> list[str | Path]:
    """Return the reward models that the named stages maximised, as far as they are known."""
    return [local(s.maximised) for s in subjects.values() if isinstance(s, PolicySubject) and s.maximised]


def evaluate(session: Session) -> Result:
    """Evaluate models, whoever made them, and beside them the reference. Nothing is trained.

    Args:
        session: made with the configs `EVALUATE`.

    Returns:
        What ``evaluation.json`` holds (docs/report.md), and the answers behind it.

    Raises:
        UserError: for whatever could not finish, before anything is evaluated.
    """
    config = session.config(EvaluateConfig)
    session.layers.check(())
    subjects = named_subjects(config.models, config.methods)
    check_methods(config.methods, subjects)
    brought = Brought.by(session)
    brought.check_reward(session, maximised=False, judged=config.generate)
    sft, rewards = reference(brought.begin, subjects), brought.rewards
    check_choices(subjects, rewards)
    judge, people = open_judge(session.configs), open_people(session.config(JudgeConfig))
    policies = 1 + sum(subject.role == "policy" for subject in subjects.values())
    tested = policies if judge or session.world.judges else 0
    judged = fewest_rows(tested, session.evaluation.eval_prompts) if config.generate else {"heldout": FEWEST}
    with session.opened(judged=judged, doing=list(subjects)) as experiment:
        if config.generate:
            say_what_is_seen(tested, min(len(experiment.eval_prompts), session.evaluation.eval_prompts))
        return evaluated(session, experiment, subjects, sft, rewards, judge, people)


def evaluated(
    session: Session,
    experiment: Experiment,
    subjects: Mapping[str, Subject],
    sft: str | None,
    rewards: Sequence[RewardSubject],
    judge: Chosen | None,
    people: ByAnswers | None = None,
) -> Result:
    """Do what `evaluate` says, with everything checked and open.

    Args:
        session: the settings.
        experiment: the open world and run.
        subjects: what is evaluated, by name.
        sft: the reference's adapter; None: the bare base.
        rewards: gives the proxy reward, and chooses for best-of-n.
        judge: who was asked for; None: the world's own.
        people: who judged some of the answers too.
    """
    generate, start = session.config(EvaluateConfig).generate, adapter_stage(Path(sft), "policy") if sft else None
    maximised = [*maximised_by(subjects), *(local(one.source) for one in rewards)]
    judged = judging(experiment, session.evaluation, judge, lambda: planted(experiment.world), maximised, start)
    policies = 1 + sum(one.role == "policy" for one in subjects.values()) if generate else 1
    check_held(people, 0 if judged.decide is None else policies)
    ground = Ground(
        experiment,
        session.evaluation,
        sft=start,
        reward=proxy(session, experiment, rewards, start),
        judge=judged.scores,
        generate=generate,
    )
    every = {"reference": START, **subjects}
    answers = [BASELINE] * session.evaluation.baseline_draws if generate else []
    expect([f"eval-{name}" for name in (*answers, *every)])
    draws = [baseline(ground)] if generate else []
    found = {name: evaluate_subject(name, subject, ground) for name, subject in every.items()}
    ranks.dismiss()
    decide, unit = judged.decide if generate else None, session.evaluation.length_unit
    evaluation = Evaluation(
        **vars(summarise_subjects(every, found, draws, decide, people, unit)),
        baseline="reference",
        judge=judged.described(),
        reward_model=None,
        seeds=(),
        reference=sft or experiment.world.model,
        **about(session, experiment),
    )
    samples = {name: {"0": records.samples} for name, records in found.items() if records.samples}
    return Result(evaluation, samples)


def proxy(
    session: Session, experiment: Experiment, rewards: Sequence[RewardSubject], sft: Stage | None
) -> Rewards | None:
    """Return what gives the proxy reward: one model as it scores, several on the scale of the start's answers."""
    from preflab.experiment.adopted import given_rewards

    if len(rewards) < 2:
        return rewards[0].play(experiment) if rewards else None
    size, pool = session.evaluation.eval_batch_size, session.rewards.reward_pool
    return given_rewards(experiment, [one.given for one in rewards], sft, pool=pool, batch_size=size)


def check_choices(subjects: Mapping[str, Subject], rewards: Sequence[RewardSubject]) -> None:
    """Refuse a choice among samples that nobody makes, or among too many.

    Raises:
        UserError: naming the model.
    """
    for name, subject in subjects.items():
        if isinstance(subject, PolicySubject) and subject.best_of > 1:
            if subject.best_of > MOST_SAMPLES:
                raise UserError(f"{name} chooses among {subject.best_of} samples; {MOST_SAMPLES} are the most")
            if not rewards:
                raise UserError(f"{name} chooses among samples by a reward model; name one as --reward-model")


def summarise_subjects(
    subjects: Mapping[str, Subject],
    found: Mapping[str, Records],
    draws: Sequence[Sequence[Records]],
    decide: Decide | None,
    people: ByAnswers | None = None,
    length_unit: LengthUnit = "tokens",
) -> Summary:
    """Summarise the records of every subject, the reference first."""
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.comparison.record import by_likelihood, summarise_comparison
    from preflab.eval.records.columns import column
    from preflab.eval.records.records import Records

    contestants = []
    for name, records in found.items():
        # Without a reference in the same tokens there is no implicit reward, and its figures are null.
        scored = records if column([records.preferences], "chosen_score") is not None else Records(records.samples, [])
        contestants.append(Contestant(name, [scored], gives=subjects[name].role))
    summary = summarise_comparison(contestants, baseline=draws, decide=decide, people=people, length_unit=length_unit)
    methods = {
        name: replace(
            row,
            preferences=row.preferences or (by_likelihood(found[name]) if found[name].preferences else None),
            kind=subjects[name].kind,
            fingerprint=Fingerprint(**found[name].fingerprint),
        )
        for name, row in summary.methods.items()
    }
    return replace(summary, methods=methods)
