"""A comparison that must find nothing: one method against itself, trained with other seeds.

    python -m benchmarks.validity.null_comparison

trains DPO on the embedded world with six seeds and compares every three of them with the other three, by the tests and
the sentences of ``recipes/compare.py``. Settings are options, as there.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

from eval.pipeline.comparing import CompareConfig, Entry, contest
from eval.pipeline.session import Session
from eval.pipeline.stages import Pipeline
from preflab.errors.answering import run_recipe

SEEDS = (0, 1, 2, 3, 4, 5)


def main() -> None:
    """Train once, compare ten times."""
    session = Session(
        __doc__ or "",
        {"comparison": CompareConfig},
        preset={"seeds": SEEDS, "algorithms": ("dpo",), "output": "runs/null"},
    )
    [name] = session.configs["comparison"].algorithms
    method = session.method(name)
    experiment = session.open()
    from eval.comparison.contests import by_gold, tournament
    from eval.comparison.sentences import pair_sentence

    pipeline = Pipeline(session, experiment)
    sft = pipeline.sft()
    rewards = pipeline.rewards(sft) if method.needs.uses("reward") else None
    shared: Any = {"sft": sft, "reward": rewards, "judge": pipeline.judge(sft)}
    seeds = session.run.seeds
    stages = [
        experiment.train(f"{method.label}-seed{seed}", method, seed=seed, sft=sft, reward=rewards) for seed in seeds
    ]
    whole = contest(pipeline, Entry(method, {}), stages, shared)
    found = 0
    for chosen in combinations(range(len(seeds)), len(seeds) // 2):
        if 0 not in chosen:
            continue  # the same split, the other way round
        others = [i for i in range(len(seeds)) if i not in chosen]
        sides = [
            replace(whole, name=f"{name} {[seeds[i] for i in part]}", records=[whole.records[i] for i in part])
            for part in (chosen, others)
        ]
        pairs, _ = tournament(sides, by_gold)
        found += pairs[0].winner is not None
        print(*map(pair_sentence, pairs), sep="\n")
    print(f"{found} of the splits differ at the 5 % level")


if __name__ == "__main__":
    run_recipe(main)
