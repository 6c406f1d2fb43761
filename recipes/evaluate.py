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

from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.evaluating import EVALUATE, EvaluateConfig, evaluate
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import check_report, show, show_preferences, write_pages


def main() -> None:
    """Open every model, score it, print one table, write evaluation.json and the report."""
    session = Session.read(__doc__ or "", EVALUATE, argv=joined(sys.argv[1:]))
    report, folder = session.config(EvaluateConfig).report, Path(session.run.output)
    check_report(report)
    result = evaluate(session)
    show(result.comparison, folder / "evaluation.json")
    show_preferences(result.comparison)
    if report:
        write_pages(result, folder / "evaluation")  # beside a comparison's own


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
