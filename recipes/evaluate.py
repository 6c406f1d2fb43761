"""Judge anything that answers prompts or scores responses, by the harness that compare uses, on the same rows.

    preflab evaluate --models mine=runs/mine other=ADAPTER --model M --dataset D
    preflab evaluate --models a=ADAPTER b=owner/model best=best-of-8:ADAPTER --reward-model R --model M --dataset D
    preflab evaluate --models scorer=REWARD --model M --heldout pairs.jsonl --no-generate

A model is a stage of a preflab run (or the whole run), a PEFT adapter, a causal language model, a classifier with
one label, the best of n samples of a policy, or a file of responses; `eval.subjects` has the details. --model is
the base that adapters stand on and the reference of all policies, with the adapter of --sft where it is given.
Nothing is trained. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.evaluating import EVALUATE, EvaluateConfig, evaluate
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import check_report, show, show_preferences, write_pages

CONFIGS = EVALUATE

OFTEN = {
    "what is judged": ("models", "model", "sft", "generate"),
    "on which data": ("dataset", "heldout", "eval_prompts", "eval_pairs"),
    "who judges, and where": ("judge", "reward_model", "human_verdicts", "device", "output", "report"),
}


def main() -> None:
    """Open every model, score it, print one table, write evaluation.json and the report."""
    session = Session.read(__doc__ or "", CONFIGS, often=OFTEN, stages=False)
    report, folder = session.config(EvaluateConfig).report, Path(session.run.output)
    check_report(report)
    result = evaluate(session)
    show(result.comparison, folder / "evaluation.json")
    show_preferences(result.comparison)
    if report:
        write_pages(result, folder / "evaluation")  # beside a comparison's own


if __name__ == "__main__":
    run_recipe(main)
