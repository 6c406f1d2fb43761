"""Train one method and judge it against the policy it started from.

python recipes/train.py dpo                           the embedded reviews world
python recipes/train.py kto --model M --dataset D     your model, your preferences
python recipes/train.py my_loss.py:MyLoss --beta 0.2  a method of your own
python recipes/train.py dpo --plan                    what it would take: memory, time, disk
python recipes/train.py dpo --help                    every field
python recipes/compare.py --algorithms list           the methods that there are
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from preflab.errors import UserError, speaking
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say
from preflab.eval.pipeline.plan_table import show_plan
from preflab.eval.pipeline.planning import PLAN, PlanConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import show
from preflab.eval.pipeline.training import TRAIN, TrainingConfig, train, train_only
from preflab.method import registry
from preflab.method.configured import label


def main() -> None:
    """Read the method, then its options."""
    name, *options = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        return print(__doc__)
    if not name or name.startswith("-"):
        raise UserError(f"name the method first: train.py METHOD [options]; known: {', '.join(registry.registered())}")
    train_one(__doc__ or "", name, options)


def train_one(description: str, name: str, argv: Sequence[str] | None = None) -> None:
    """Train one method, whose settings are options without a prefix; sft.py, dpo.py and others call this."""
    session = Session.read(description, {**TRAIN, **PLAN}, flat=name, argv=argv)
    evaluate = session.config(TrainingConfig).evaluate
    if session.config(PlanConfig).plan:
        speaking.refuse_json("--plan")
        from preflab.eval.pipeline.outline import plan_training

        return show_plan(plan_training(session, name, evaluate=evaluate))
    if evaluate:
        result, record = train(session, name), Path(session.run.output) / f"{label(name)}.json"
        said = {"record": str(record), "result": show(result.comparison, record)}
        stages = result.stages
    else:
        stages, said = train_only(session, name), {"record": None, "result": None}
    weights = [str(stage.folder / registry.load(name).needs.trains[0]) for stage in stages]
    say(f"weights: {', '.join(weights)}")
    speaking.result({"weights": weights, **said})


if __name__ == "__main__":
    run_recipe(main)
