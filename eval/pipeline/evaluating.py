"""Models evaluated, whoever made them, beside the reference that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.pipeline.judging import Judging, local
from eval.records.figures import Fingerprint
from eval.subjects import Ground, PolicySubject, Subject, evaluate_subject, open_subject, open_subjects
from preflab.errors import UserError
from preflab.method import registry
from preflab.settings.fields import option

if TYPE_CHECKING:
    from eval.records.comparison import Summary
    from eval.records.records import Records

MOST_SAMPLES = 2**16  # of one prompt, as for the method best-of-n


@dataclass(frozen=True)
class EvaluateConfig:
    """What is judged."""

    models: tuple[str, ...] = option((), "name=PATH of each, separated by commas or spaces")
    sft: str | None = option(
        None, "adapter of the reference policy; default: what the named stages started from, else the bare base"
    )
    reward_model: str | None = option(None, "reward model that gives the proxy reward, and chooses for best-of-n")
    methods: tuple[str, ...] = option(
        (), "methods of your own (file.py:Class) that trained stages of --models: code that may be run, to decode"
    )
    generate: bool = option(True, "let policies answer the prompts; false: score held-out pairs only")
    report: bool = option(True, "write evaluation/report.html with figures and tables")


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


def reference(given: str | None, subjects: Mapping[str, Subject]) -> str | None:
    """Return the adapter of the reference: the given one, or what the named stages started from.

    Raises:
        UserError: if they started from different ones.
    """
    if given is not None:
        subject = open_subject(given)
        if not isinstance(subject, PolicySubject) or not subject.adapter or subject.best_of > 1:
            raise UserError(f"--sft: {given} is a {subject.kind}; the reference is an adapter of --model")
        return subject.source
    starts = {s.start for s in subjects.values() if isinstance(s, PolicySubject) and s.start}
    if len(starts) > 1:
        raise UserError(f"the models started from different policies; name the reference as --sft: {', '.join(starts)}")
    return next(iter(starts), None)


def maximised_by(subjects: Mapping[str, Subject]) -> list[str | Path]:
    """Return the reward models that the named stages maximised, as far as they are known."""
    return [local(s.maximised) for s in subjects.values() if isinstance(s, PolicySubject) and s.maximised]


def evaluate(ground: Ground, subjects: Mapping[str, Subject], judged: Judging) -> tuple[Summary, dict[str, Records]]:
    """Evaluate every subject and, beside them, the reference; return their figures, and the records behind them."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.record import by_likelihood, summarise_comparison
    from eval.records.columns import column
    from eval.records.records import Records

    ground = ground._replace(judge=judged.scores)
    every = {"reference": PolicySubject(None, "reference"), **subjects}
    baseline = draws(ground, every["reference"]) if ground.generate else []
    found = {name: evaluate_subject(name, subject, ground) for name, subject in every.items()}
    contestants = []
    for name, records in found.items():
        # Without a reference in the same tokens there is no implicit reward, and its figures are null.
        scored = records if column([records.preferences], "chosen_score") is not None else Records(records.samples, [])
        contestants.append(Contestant(name, [scored], gives=every[name].role))
    decide = judged.decide if ground.generate else None
    summary = summarise_comparison(contestants, baseline=baseline, decide=decide)
    methods = {}
    for name, row in summary.methods.items():
        plain = by_likelihood(found[name]) if found[name].preferences else None
        methods[name] = replace(
            row,
            preferences=row.preferences or plain,
            kind=every[name].kind,
            fingerprint=Fingerprint(**found[name].fingerprint),
        )
    return replace(summary, methods=methods), found


def draws(ground: Ground, start: Subject) -> list[Records]:
    """Let the reference answer every prompt several times; win rates are against these."""
    config = replace(ground.config, eval_pairs=2)  # only its answers are asked for
    seeds = range(-config.baseline_draws, 0)
    return [evaluate_subject("baseline", start, ground._replace(seed=s, config=config)) for s in seeds]
