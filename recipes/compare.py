"""Compare methods on one model and one preference data set: PPO or DPO, by how much?

    python recipes/compare.py                                   the embedded reviews world
    python recipes/compare.py --quick                           the same, smaller
    python recipes/compare.py --model M --dataset D             your model, your preferences
    python recipes/compare.py --model M --reward mod:function   your model, a reward of your own
    python recipes/compare.py --dpo.beta 0.2 --ppo.kl-coefficient 0.1 --seeds 0,1,2
    python recipes/compare.py --sweep beta=0.03,0.1,0.3         the frontier of reward against KL
    python recipes/compare.py --tune 8                          settings found on validation prompts first
    python recipes/compare.py --snapshots 8                     gold and proxy reward over training
    python recipes/compare.py --model M --dataset D --plan      what that would take: memory, time, disk

Every method starts from the same SFT adapter, sees the same rows and is judged on the same held-out
pairs and prompts. Interrupted, the same command goes on where it stopped. The output folder gets
comparison.json and report/report.html.
"""

from __future__ import annotations

from pathlib import Path

from preflab.errors import speaking
from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.comparing import COMPARE, compare
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.plan_table import show_plan
from preflab.eval.pipeline.planning import PLAN, PlanConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import check_report, show, write_pages
from preflab.recipes.methods import list_methods


def main() -> None:
    """Base → SFT → reward model → methods × settings × seeds → evaluation → comparison.json, table and report."""
    session = Session.read(__doc__ or "", {**COMPARE, **PLAN})
    config, folder = session.config(CompareConfig), Path(session.run.output)
    if config.algorithms == ("list",):
        speaking.refuse_json("a list of methods")
        return list_methods()
    if session.config(PlanConfig).plan:
        speaking.refuse_json("--plan")
        from preflab.eval.pipeline.outline import plan_comparison

        return show_plan(plan_comparison(session))
    check_report(config.report)
    result = compare(session)
    show(result.comparison, folder / "comparison.json")
    if config.report:
        write_pages(result, folder / "report")


if __name__ == "__main__":
    run_recipe(main)
