"""Compare methods on one model and one preference data set: PPO or DPO, by how much?

    preflab compare --quick                                     a first look at the embedded reviews world
    preflab compare --model M --dataset D                       your model, your preferences
    preflab compare --model M --dataset D --seeds 0 1 2 --dpo.beta 0.2 --ppo.kl-coefficient 0.1
    preflab compare --model M --reward mod:function             your model, a reward of your own
    preflab compare --sweep beta=0.03,0.1,0.3                   the frontier of reward against KL
    preflab compare --tune 8                                    settings found on validation prompts first
    preflab compare --snapshots 8                               gold and proxy reward over training
    preflab compare --model M --dataset D --plan                what that would take: memory, time, disk

Every method starts from the same SFT adapter, sees the same rows and is judged on the same held-out
pairs and prompts. Interrupted, the same command goes on where it stopped. The output folder gets
comparison.json and report/report.html.
"""

from __future__ import annotations

from pathlib import Path

from preflab.errors import speaking
from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.comparing import COMPARE, compare
from preflab.eval.pipeline.entries import CompareConfig, as_compared
from preflab.eval.pipeline.plan_table import show_plan
from preflab.eval.pipeline.planning import PLAN, PlanConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import check_report, show, write_pages
from preflab.eval.pipeline.tracked import report_result
from preflab.experiment.opening import check_data
from preflab.recipes.methods import list_methods

CONFIGS = {**COMPARE, **PLAN}

OFTEN = {
    "model and data": ("model", "dataset", "heldout", "columns"),
    "what is compared": ("algorithms", "seeds", "max_steps", "sweep", "tune", "match"),
    "who judges, and where": ("judge", "device", "output", "quick"),
}


def main(description: str = __doc__ or "") -> None:
    """Base → SFT → reward model → methods × settings × seeds → evaluation → comparison.json, table and report."""
    session = Session.read(description, CONFIGS, often=OFTEN, trained=as_compared)
    config, folder = session.config(CompareConfig), Path(session.run.output)
    if config.algorithms == ("list",):
        speaking.refuse_json("a list of methods")
        return list_methods()
    if session.config(PlanConfig).plan:
        speaking.refuse_json("--plan")
        check_data(session.world)  # before torch is imported
        from preflab.eval.pipeline.outline import plan_comparison

        return show_plan(plan_comparison(session))
    check_report(config.report)
    result = compare(session)
    show(result.comparison, folder / "comparison.json")
    if config.report:
        write_pages(result, folder / "report")
    report_result(session, result, config.algorithms, folder / "report" / "report.html" if config.report else None)


if __name__ == "__main__":
    run_recipe(main)
