"""Train one method and judge it against the policy it started from.

    preflab train dpo --quick                             a first look at the embedded reviews world
    preflab train kto --model M --dataset D               your model, your preferences
    preflab train my_loss.py:MyLoss --beta 0.2            a method of your own
    preflab train dpo --model M --dataset D --plan        what it would take: memory, time, disk

`preflab methods` lists the methods that there are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from preflab.errors import UserError, speaking
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say
from preflab.eval.pipeline.merging import check_push, push_trained
from preflab.eval.pipeline.plan_table import show_plan
from preflab.eval.pipeline.planning import PLAN, PlanConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import show
from preflab.eval.pipeline.tracked import report_result
from preflab.eval.pipeline.training import TRAIN, TrainingConfig, train, train_only
from preflab.experiment.opening import check_data
from preflab.method import registry
from preflab.method.configured import label
from preflab.model.pushing import PushConfig
from preflab.settings.fields import often_changed

CONFIGS: dict[str, type] = {**TRAIN, **PLAN, "hub": PushConfig}

OFTEN = {
    "model and data": ("model", "dataset", "heldout"),
    "training": ("learning_rate", "train_batch_size", "num_train_epochs", "max_steps", "lora_rank", "seeds"),
    "and then": ("evaluate", "device", "output", "quick", "plan"),
}
"""Of every method; those that are its own stand between."""


def main(description: str = __doc__ or "") -> None:
    """Read the method, then its options.

    Raises:
        UserError: if none is named.
    """
    name, *options = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        return print(f"usage: {Path(sys.argv[0]).name} METHOD [options]\n\n{description.strip()}\n\n{named_methods()}")
    if not name or name.startswith("-"):
        raise UserError(f"name the method first, as in `preflab train dpo`; known: {', '.join(registry.registered())}")
    name = registry.named(name)
    sys.argv = [f"{sys.argv[0]} {name}", *options]
    train_one(description, name)


def named_methods() -> str:
    """Return the names of all methods, in a line."""
    return f"METHOD is a place, as file.py:Class, or one of {', '.join(registry.registered())}"


def train_one(description: str, name: str) -> None:
    """Train one method, whose settings are options without a prefix; sft.py, dpo.py and others call this."""
    own = often_changed(registry.load(name).Config)
    often = {"model and data": OFTEN["model and data"], label(name): own, **OFTEN}
    session = Session.read(description, CONFIGS, flat=name, often=often)
    evaluate = session.config(TrainingConfig).evaluate
    if session.config(PlanConfig).plan:
        speaking.refuse_json("--plan")
        check_data(session.world)  # before torch is imported
        from preflab.eval.pipeline.outline import plan_training

        return show_plan(plan_training(session, name, evaluate=evaluate))
    check_push(session.run, session.world, session.config(PushConfig))
    if evaluate:
        result, record = train(session, name), Path(session.run.output) / f"{label(name)}.json"
        said = {"record": str(record), "result": show(result.comparison, record)}
        report_result(session, result, [name])
        stages = result.stages
    else:
        stages, said = train_only(session, name), {"record": None, "result": None}
    weights = [stage.folder / registry.load(name).needs.trains[0] for stage in stages]
    say(f"weights: {', '.join(map(str, weights))}")
    speaking.result({"weights": list(map(str, weights)), **said})
    push_trained(weights[0], session.config(PushConfig))


if __name__ == "__main__":
    run_recipe(main)
