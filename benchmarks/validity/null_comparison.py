"""A comparison that must find nothing: one method against itself, trained with other seeds.

    python -m benchmarks.validity.null_comparison

trains DPO on the embedded world with six seeds and compares every three of them with the other three, by the tests and
the sentences of ``recipes/compare.py``. Settings are options, as there.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.contestants import contest
from preflab.eval.pipeline.entries import CompareConfig, Entry
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.training import ground_for

SEEDS = (0, 1, 2, 3, 4, 5)


def main() -> None:
    """Train once, compare ten times."""
    preset = {"seeds": SEEDS, "algorithms": ("dpo",), "output": "runs/null"}
    session = Session.read(__doc__ or "", COMPARE, preset=preset)
    [name] = session.config(CompareConfig).algorithms
    session = session.capped(session.config(CompareConfig).max_steps)
    method = session.method(name)
    experiment = session.open()
    from preflab.eval.comparison.contests import by_gold, compare_pairs, play
    from preflab.eval.comparison.sentences import pair_sentence
    from preflab.experiment.foundation import Foundation

    ground = ground_for(session, Foundation(experiment, *session.stage_methods(), session.rewards).resolved(), method)
    seeds = session.run.seeds
    stages = [
        experiment.train(f"{method.label}-seed{seed}", method, seed=seed, sft=ground.sft, reward=ground.reward)
        for seed in seeds
    ]
    whole = contest([ground._replace(seed=seed) for seed in seeds], Entry(method, {}), stages)
    found = 0
    for chosen in combinations(range(len(seeds)), len(seeds) // 2):
        if 0 not in chosen:
            continue  # the same split, the other way round
        others = [i for i in range(len(seeds)) if i not in chosen]
        sides = [
            replace(whole, name=f"{name} {[seeds[i] for i in part]}", records=[whole.records[i] for i in part])
            for part in (chosen, others)
        ]
        pairs = compare_pairs(sides, play(sides, by_gold), scored=True)
        found += pairs[0].winner is not None
        print(*map(pair_sentence, pairs), sep="\n")
    print(f"{found} of the splits differ at the 5 % level")


if __name__ == "__main__":
    run_recipe(main)
