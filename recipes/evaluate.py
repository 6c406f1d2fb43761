r"""Judge anything that answers prompts or scores responses, by the harness that compare.py uses, on the same rows.

    python recipes/evaluate.py --models mine=runs/mine,other=ADAPTER --model M --dataset D
    python recipes/evaluate.py --models a=ADAPTER b=owner/model best=best-of-8:ADAPTER \
        --sft ADAPTER --reward-model REWARD --judge OTHER-REWARD --model M --dataset D
    python recipes/evaluate.py --models scorer=REWARD --model M --heldout pairs.jsonl --generate false

A model is a stage of a preflab run (or the whole run), a PEFT adapter, a causal language model, a classifier with
one label, the best of n samples of a policy, or a file of responses; `eval.subjects` has the details. --model is
the base that adapters stand on and the reference of all policies, with the adapter of --sft where it is given.
Nothing is trained. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.judges import EndpointConfig, planted
from eval.subjects import (
    Ground,
    PolicySubject,
    Subject,
    adapter_stage,
    evaluate_subject,
    open_subject,
    open_subjects,
)
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import console, one_line
from preflab.method import registry
from preflab.settings.fields import option
from recipes.common import Session, check_report
from recipes.compare import WIDTH, show, write_pages
from recipes.judging import JudgeSettings, Judging, judging, local, open_judge, open_reward

if TYPE_CHECKING:
    from rich.table import Table

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


def main() -> None:
    """Open every model, score it, print one table, write evaluation.json and the report."""
    extra = {"evaluate": EvaluateConfig, "judge": JudgeSettings, "endpoint": EndpointConfig}
    session = Session(__doc__ or "", extra, argv=joined(sys.argv[1:]))
    session.check_sections(())
    config: EvaluateConfig = session.configs["evaluate"]
    check_report(config.report)
    subjects = named_subjects(config.models, config.methods)
    check_methods(config.methods, subjects)
    sft = reference(config.sft, subjects)
    rewards = open_reward("--reward-model", config.reward_model) if config.reward_model else None
    for name, subject in subjects.items():
        if isinstance(subject, PolicySubject) and subject.best_of > MOST_SAMPLES:
            raise UserError(f"{name} chooses among {subject.best_of} samples; {MOST_SAMPLES} are the most")
    choosing = [n for n, s in subjects.items() if isinstance(s, PolicySubject) and s.best_of > 1]
    if choosing and not rewards:
        raise UserError(f"{choosing[0]} chooses among samples by a reward model; name one as --reward-model")
    judge = open_judge(session.configs["judge"], session.configs["endpoint"])

    experiment = session.open(judged=("eval_prompts", "heldout") if config.generate else ("heldout",))
    from preflab.versions import provenance

    ground = Ground(
        experiment,
        session.evaluation,
        sft=adapter_stage(Path(sft), "policy") if sft else None,
        reward=rewards.play(experiment) if rewards else None,
        generate=config.generate,
    )
    maximised = [*maximised_by(subjects), *([local(rewards.source)] if rewards else [])]
    judged = judging(experiment, session.evaluation, judge, lambda: planted(experiment.world), maximised)
    evaluation, records = evaluate(ground, subjects, judged)
    facts = {"judge": judged.as_dict(), "reference": sft or experiment.world.model}
    about = {"config": session.as_dict(), "data": experiment.data, **provenance()}
    evaluation |= {**facts, **about}
    show(evaluation, Path(session.run.output) / "evaluation.json")
    page = console(None if sys.stdout.isatty() else WIDTH)
    for table in preference_tables(evaluation["methods"]):
        page.print(table)
    if config.report:
        samples = {name: {"0": found.samples} for name, found in records.items() if found.samples}
        write_pages(evaluation, samples, Path(session.run.output) / "evaluation")  # beside a comparison's own


def joined(arguments: Sequence[str]) -> list[str]:
    """Write ``--models a=P b=Q --models c=R`` as the one value that the command line reads."""
    rest: list[str] = []
    models: list[str] = []
    taking = False
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if argument.startswith("--"):
            taking = flag == "--models"
            (models if taking else rest).extend([value] if taking and value else [] if taking else [argument])
        else:
            (models if taking else rest).append(argument)
    return [*rest, "--models", ",".join(models)] if models else list(arguments)


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


def evaluate(
    ground: Ground, subjects: Mapping[str, Subject], judged: Judging
) -> tuple[dict[str, Any], dict[str, Records]]:
    """Evaluate every subject and, beside them, the reference; return their figures, and the records behind them."""
    from eval.comparison.contestant import Contestant
    from eval.comparison.preferences import likelihoods
    from eval.comparison.record import summarise_comparison
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
    evaluation = summarise_comparison(contestants, baseline=baseline, decide=decide)
    for name, row in evaluation["methods"].items():
        row |= {"kind": every[name].kind, "fingerprint": found[name].fingerprint}
        if row["preferences"] is None and found[name].preferences:
            row["preferences"] = {"score": None, **likelihoods([found[name].preferences])}
    return {**evaluation, "baseline": "reference"}, found


def draws(ground: Ground, start: Subject) -> list[Records]:
    """Let the reference answer every prompt several times; win rates are against these."""
    config = replace(ground.config, eval_pairs=2)  # only its answers are asked for
    seeds = range(-config.baseline_draws, 0)
    return [evaluate_subject("baseline", start, ground._replace(seed=s, config=config)) for s in seeds]


SCORES = ("score", "likelihood", "likelihood a token")


def preference_tables(methods: Mapping[str, Any]) -> list[Table]:
    """Return held-out accuracy by what ranks the responses, and per subset where the data have any."""
    rows = {name: row["preferences"] for name, row in methods.items() if row["preferences"]}
    kinds = {
        name: [
            found.get("accuracy"),
            *((found.get(k) or {}).get("accuracy") for k in ("likelihood", "normalised_likelihood")),
        ]
        for name, found in rows.items()
    }
    tables = [_table("held-out accuracy", "method", SCORES, kinds)] if rows else []
    subsets = {name: found["subsets"] for name, found in rows.items() if found.get("subsets")}
    if subsets:
        of_subset = {
            part: [found[part]["accuracy"] for found in subsets.values()] for part in next(iter(subsets.values()))
        }
        tables.append(_table("held-out accuracy by subset", "subset", list(subsets), of_subset))
    return tables


def _table(title: str, first: str, columns: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(first, title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(one_line(column)), justify="right")
    for name, estimates in rows.items():
        texts = ("–" if e is None else f"{e['mean']:.1%} [{e['low']:.1%}, {e['high']:.1%}]" for e in estimates)
        table.add_row(Text(one_line(name)), *(Text(text.replace("%", " %")) for text in texts))
    return table


if __name__ == "__main__":
    run_recipe(main)
