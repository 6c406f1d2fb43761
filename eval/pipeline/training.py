"""One method trained, and judged against the policy it started from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.pipeline.comparing import Entry, contest
from eval.pipeline.session import Session
from eval.pipeline.showing import show
from eval.pipeline.stages import Pipeline
from preflab.errors.terminal import say


def train_one(description: str, name: str, argv: Sequence[str] | None = None) -> None:
    """Run a recipe for one method: its settings are options without a prefix.

    Stages the method stands on (SFT, reward model) are built first, or reused if `--output` has them.
    """
    session = Session(description, flat=name, argv=argv)
    session.check_sections((name,))
    method = session.method(name)
    needs = method.needs

    stands_on = () if name == "sft" else session.stage_methods()
    judged = ("eval_prompts", "heldout") if needs.trains[0] == "policy" else ("heldout",)
    experiment = session.open([*stands_on, method], judged=judged)
    from eval.comparison.contestant import Contestant
    from eval.comparison.contests import by_gold
    from eval.comparison.record import as_comparison, summarise_comparison
    from eval.records.comparison import Judge
    from preflab.disk.files import write_result
    from preflab.versions import provenance

    pipeline = Pipeline(session, experiment)
    write_result(
        Path(session.run.output) / "manifest.json",
        {"config": session.as_dict(), "data": experiment.data, **provenance()},
    )
    sft = None if needs.responses == "demonstration" else pipeline.sft()
    rewards = pipeline.rewards(sft) if needs.uses("reward") and "reward" not in needs.trains else None
    # On real data the judge is a reward model of its own, which is for comparisons; here, r* or nobody.
    judge = pipeline.judge(sft) if experiment.world.gold else None
    shared: Any = {"sft": sft, "reward": rewards, "judge": judge}

    # Stages that other methods stand on carry no seed in their name: compare.py finds them again.
    stage_name = name if name in ("sft", "reward") else f"{method.label}-seed{{}}"
    stages = [
        experiment.train(stage_name.format(seed), method, seed=seed, sft=sft, reward=rewards)
        for seed in session.run.seeds
    ]
    baseline, contestants = [], []
    if needs.trains[0] == "policy":
        baseline = pipeline.baseline(**shared)
        contestants = [Contestant("start", [pipeline.evaluate("start", None, **shared)])]
    contestants.append(contest(pipeline, Entry(method, {}), stages, shared))
    summary = summarise_comparison(contestants, baseline=baseline, decide=by_gold if judge else None)
    comparison = as_comparison(
        summary,
        baseline="start" if baseline else None,
        judge=Judge(name=judge.name, kind="scores", warning=None) if judge else None,
        seeds=session.run.seeds,
        config=session.as_dict(),
        data=experiment.data,
    )
    show(comparison, Path(session.run.output) / f"{method.label}.json")
    say("weights: " + ", ".join(str(stage.folder / needs.trains[0]) for stage in stages))
