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

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.judges import EndpointConfig, planted
from eval.pipeline.evaluating import (
    MOST_SAMPLES,
    EvaluateConfig,
    check_methods,
    evaluate,
    maximised_by,
    named_subjects,
    reference,
)
from eval.pipeline.judging import JudgeSettings, judging, local, open_judge, open_reward
from eval.pipeline.session import Session
from eval.pipeline.showing import WIDTH, check_report, preference_tables, show, write_pages
from eval.subjects import Ground, PolicySubject, adapter_stage
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import console


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
    from eval.comparison.record import as_comparison
    from eval.records.comparison import Evaluation

    ground = Ground(
        experiment,
        session.evaluation,
        sft=adapter_stage(Path(sft), "policy") if sft else None,
        reward=rewards.play(experiment) if rewards else None,
        generate=config.generate,
    )
    maximised = [*maximised_by(subjects), *([local(rewards.source)] if rewards else [])]
    judged = judging(experiment, session.evaluation, judge, lambda: planted(experiment.world), maximised)
    summary, records = evaluate(ground, subjects, judged)
    comparison = as_comparison(
        summary, baseline="reference", judge=judged.described(), config=session.as_dict(), data=experiment.data
    )
    evaluation = Evaluation(**vars(comparison), reference=sft or experiment.world.model)
    show(evaluation, Path(session.run.output) / "evaluation.json")
    page = console(None if sys.stdout.isatty() else WIDTH)
    for table in preference_tables(evaluation.methods):
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


if __name__ == "__main__":
    run_recipe(main)
