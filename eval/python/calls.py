"""`compare`, `train` and `evaluate`: what the recipes of these names do, with objects in place of files and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.eval.pipeline import comparing, evaluating, training
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.evaluating import EVALUATE
from preflab.eval.pipeline.showing import check_report
from preflab.eval.pipeline.training import TRAIN, TrainingConfig
from preflab.eval.python.results import ComparisonResult, TrainingResult
from preflab.eval.python.settings import Asked, asked, names_of
from preflab.method import registry
from preflab.method.configured import label
from preflab.progress import say

if TYPE_CHECKING:
    from preflab.eval.pipeline.results import Result

MethodLike = str | type
"""A method's name, its place (``package.module:Class``, ``file.py:Class``), or its class."""


def compare(
    algorithms: MethodLike | Iterable[MethodLike] = (),
    *,
    model: Any = None,
    tokenizer: Any = None,
    dataset: Any = None,
    heldout: Any = None,
    prompts: Any = None,
    reward_model: Any = None,
    judge: Any = None,
    seeds: int | Iterable[int] | None = None,
    output: str | Path | None = None,
    methods: Mapping[MethodLike, Mapping[str, Any]] | None = None,
    report: bool = False,
    **settings: Any,
) -> ComparisonResult:
    """Compare methods on one model and one preference data set, as `preflab compare` does.

    Every method starts from the same policy, sees the same rows and is judged on the same held-out pairs and prompts.
    Finished stages of the run folder are reused; interrupted, the same call goes on where it stopped.

        result = preflab.compare(["dpo", "ppo"], model="MODEL", dataset=rows, seeds=3, dpo={"beta": 0.2})
        print(result)                       # the table and the headline
        result.comparison.pairwise          # everything that comparison.json holds, typed

    Args:
        algorithms: methods by name or class; none: those that the recipe compares.
        model: hub name or folder of a causal language model, or one that is loaded, with its `tokenizer`. It is only
            read: a copy of its weights is written to the cache, once, and used from there.
        tokenizer: of a loaded `model`.
        dataset: preferences: hub name, file, list of dicts, pandas DataFrame, or `datasets.Dataset`.
        heldout: held-out preferences, in the same forms; by default some of `dataset` are.
        prompts: prompts of the world of a reward function; besides these forms, a list of texts.
        reward_model: a reward model of your own, or several: hub name or folder, or a loaded classifier as
            ``(model, tokenizer)``.
        judge: who judges (docs/judges.md), or a loaded classifier as ``(model, tokenizer)``.
        seeds: how many training seeds, or a list of them.
        output: the run's folder.
        methods: settings of methods, by name or class, for names that are no keywords: ``{"reinforce++": {…}}``.
        report: write ``report/report.html`` into the run folder; `ComparisonResult.report` does so later.
        settings: options of `preflab compare`, by their names with ``_`` for ``-``; and settings of methods, or of a
            kind of methods, as dicts: ``online_dpo={"beta": 0.1}``, ``pair={"learning_rate": 1e-4}``.

    Returns:
        The comparison, which is written to ``comparison.json`` in the run folder too.

    Raises:
        UserError: for whatever could not finish, before anything is trained; mistakes in settings before torch is
            imported.
    """
    given = {
        **_given(model, tokenizer, dataset, heldout, prompts, reward_model, seeds, output),
        "judge": judge,
        "algorithms": names_of(algorithms) or None,
        "report": report,
        **settings,
    }
    check_report(report)
    call = asked("compare", COMPARE, given, algorithms=algorithms, methods=methods)
    with call.session() as session:
        result = comparing.compare(session)
    return _kept(call, result, "comparison.json", report_as="report" if report else None)


def train(
    method: MethodLike,
    *,
    model: Any = None,
    tokenizer: Any = None,
    dataset: Any = None,
    heldout: Any = None,
    prompts: Any = None,
    reward_model: Any = None,
    seeds: int | Iterable[int] | None = None,
    output: str | Path | None = None,
    methods: Mapping[MethodLike, Mapping[str, Any]] | None = None,
    evaluate: bool = True,
    **settings: Any,
) -> TrainingResult:
    """Train one method, and judge it against the policy it started from, as `preflab train` does.

    What the method stands on (SFT, and a reward model where it maximises one) is trained first, or reused.

        result = preflab.train("dpo", model="MODEL", dataset=rows, beta=0.2, output="runs/mine")
        result.path                         # the folder of the weights, a PEFT adapter
        result.model()                      # the base with the adapter on it

    Args:
        method: its name or class.
        model: as `compare` takes it.
        tokenizer: as `compare` takes it.
        dataset: as `compare` takes it.
        heldout: as `compare` takes it.
        prompts: as `compare` takes it.
        reward_model: as `compare` takes it.
        seeds: as `compare` takes them; each gives weights of its own.
        output: the run's folder.
        methods: settings of what the method stands on, as `compare` takes them.
        evaluate: judge it on held-out rows; False: train it alone.
        settings: options of `preflab train METHOD`: the method's own settings, those of its training, and all others;
            and, as dicts, settings of what it stands on: ``sft={"max_steps": 100}``.

    Returns:
        What was trained, what it cost, where it lies.

    Raises:
        UserError: as `compare` does.
    """
    given = {
        **_given(model, tokenizer, dataset, heldout, prompts, reward_model, seeds, output),
        "evaluate": evaluate,
        **settings,
    }
    if not isinstance(method, (str, type)):
        raise UserError(f"train takes one method, by name or as a class, and not {shown(method)}")
    [name] = names_of(method)
    call = asked("train", TRAIN, given, algorithms=method, methods=methods, flat=True)
    role, called = registry.load(name).needs.trains[0], label(name)
    with call.session() as session:
        if not session.config(TrainingConfig).evaluate:
            stages = training.train_only(session, name)
            trained = TrainingResult(called, role, stages, call.folder)
            say(f"train: {called} at {', '.join(map(str, trained.paths))}")
            return trained
        result = training.train(session, name)
    return TrainingResult(called, role, result.stages, call.folder, _kept(call, result, f"{called}.json"))


def evaluate(
    models: Mapping[str, Any],
    *,
    model: Any = None,
    tokenizer: Any = None,
    dataset: Any = None,
    heldout: Any = None,
    prompts: Any = None,
    reward_model: Any = None,
    judge: Any = None,
    output: str | Path | None = None,
    methods: MethodLike | Iterable[MethodLike] = (),
    report: bool = False,
    **settings: Any,
) -> ComparisonResult:
    """Judge anything that answers prompts or scores responses on the same rows, as `preflab evaluate` does.

        preflab.evaluate({"mine": "runs/mine", "other": "ADAPTER"}, model="MODEL", dataset=rows)
        preflab.evaluate({"mine": trained}, model="MODEL", dataset=rows)     # what preflab.train returned

    Args:
        models: by names of your own: stages or folders of runs, PEFT adapters, models, reward models, files of
            responses, ``best-of-8:ADAPTER``; or a loaded model as ``(model, tokenizer)``.
        model: the base that adapters stand on, and the reference, as `compare` takes it.
        tokenizer: as `compare` takes it.
        dataset: as `compare` takes it.
        heldout: as `compare` takes it; alone, it is all that is read.
        prompts: as `compare` takes it.
        reward_model: as `compare` takes it.
        judge: as `compare` takes it.
        output: the folder of the evaluation.
        methods: methods of your own that trained stages of `models`: code that may be run, to decode.
        report: write ``evaluation/report.html`` into the folder.
        settings: options of `preflab evaluate`, by their names with ``_`` for ``-``.

    Returns:
        The comparison of the models, which is written to ``evaluation.json`` in the folder too.

    Raises:
        UserError: as `compare` does.
    """
    given = {
        "models": models,
        **_given(model, tokenizer, dataset, heldout, prompts, reward_model, None, output),
        "judge": judge,
        "methods": names_of(methods) or None,
        "report": report,
        **settings,
    }
    check_report(report)
    call = asked("evaluate", EVALUATE, given)
    with call.session() as session:
        result = evaluating.evaluate(session)
    return _kept(call, result, "evaluation.json", report_as="evaluation" if report else None)


def _given(
    model: Any, tokenizer: Any, dataset: Any, heldout: Any, prompts: Any, reward_model: Any, seeds: Any, output: Any
) -> dict[str, Any]:
    """Return the arguments that calls have in common, by their names as settings."""
    return {
        "model": model,
        "tokenizer": tokenizer,
        "reward_model": reward_model,
        "dataset": dataset,
        "heldout": heldout,
        "prompts": prompts,
        "seeds": seeds,
        "output": output,
    }


def _kept(call: Asked, result: Result, name: str, report_as: str | None = None) -> ComparisonResult:
    """Write a result as the recipe does, and return it."""
    from preflab.disk.files import write_result
    from preflab.eval.records.typed import to_json

    write_result(call.folder / name, to_json(result.comparison))
    kept = ComparisonResult(result.comparison, result.samples, call.folder, result.stages)
    if report_as is not None:
        kept.report(call.folder / report_as)
    say(f"{call.call}: {call.folder / name}")
    return kept
