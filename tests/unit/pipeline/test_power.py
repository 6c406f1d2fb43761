"""A pilot's variances as designs: what the recipe prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_fixture import comparison

from preflab.eval.pipeline.power import PowerConfig, design, designs, fewest_seeds, needed
from preflab.eval.records.variance import Shares, Sources

RECIPE = Path(__file__).parents[3] / "recipes" / "power.py"
PILOT = Sources(
    seeds=0.1, prompts=0.5, rest=1.0, groups=1, training_seeds=3, tested_prompts=100,
    shares=Shares(seeds=0.4, prompts=0.3, rest=0.3),
)  # fmt: skip


def power(folder, *options):
    return subprocess.run(
        [sys.executable, str(RECIPE), *map(str, options)], cwd=folder, capture_output=True, text=True, timeout=120
    )


def written(folder, pairs):
    (folder / "comparison.json").write_text(json.dumps({**comparison(), "pairwise": pairs}))
    return folder


def pair(**fields):
    (first, *_) = comparison()["pairwise"]
    shares = {"seeds": 0.4, "prompts": 0.3, "rest": 0.3}
    found = {"seeds": 0.1, "prompts": 0.5, "rest": 1.0, "groups": 1, "training_seeds": 3, "tested_prompts": 100}
    return {**first, "sources": {**found, "shares": shares, **fields}}


def test_the_fewest_seeds_see_the_difference_and_one_less_does_not():
    config = PowerConfig(difference=0.25)
    for cautious in (False, True):
        seeds = fewest_seeds(PILOT, config, 1, 100, cautious=cautious)
        seen = [design(PILOT, config, 1, count, 100) for count in (seeds - 1, seeds)]
        values = [one.cautious if cautious else one.detectable for one in seen]
        assert values[1] <= 0.25 < values[0]


def test_a_cautious_plan_and_several_pairs_take_more():
    one, three = (design(PILOT, PowerConfig(), pairs, 5, 100) for pairs in (1, 3))
    assert one.detectable < one.cautious
    assert one.detectable < three.detectable


def test_designs_are_those_asked_for_or_around_the_pilot():
    assert [(d.prompts, d.seeds) for d in designs(PILOT, PowerConfig(plan_seeds=(2, 4)), 1)] == [
        (25, 2), (25, 4), (100, 2), (100, 4), (400, 2), (400, 4)]  # fmt: skip
    assert [d.prompts for d in designs(PILOT, PowerConfig(plan_prompts=(7,), plan_seeds=(3,)), 1)] == [7]


def test_one_seed_plans_no_seeds():
    alone = replace(PILOT, seeds=None, groups=0, training_seeds=1)
    assert [(d.seeds, d.cautious) for d in designs(alone, PowerConfig(plan_prompts=(50,)), 1)] == [(1, None)]
    assert needed(alone, PowerConfig(difference=0.1), 1) == [
        "One seed each, these models alone: what other seeds would give, and how many it takes, is not known."
    ]


def test_what_no_number_of_seeds_sees_is_said():
    said = needed(replace(PILOT, seeds=50.0), PowerConfig(difference=0.01, plan_prompts=(10,)), 1)
    assert said == ["A difference of 0.01 on 10 prompts takes more than 64 seeds, or more than 64 to be safe."]


def test_the_recipe_reads_a_run_folder_and_prints_a_table_for_each_pair(tmp_path):
    answer = power(written(tmp_path, [pair()]), "--run", ".", "--difference", 0.3)
    assert answer.returncode == 0, answer.stderr
    assert "sft against dpo" in answer.stdout
    assert "A difference of 0.3 on 100 prompts takes" in answer.stdout
    assert "12 seeds" in answer.stdout


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        ([], ["--run", "."], "tests no two methods"),
        ([{k: v for k, v in pair().items() if k != "sources"}], ["--run", "."], "kept no variances"),
        ([], ["--run", "absent"], "absent is not there"),
        ([], ["--power", "2"], "power"),
    ],
)
def test_what_gives_no_plan_is_refused(pairs, options, said, tmp_path):
    answer = power(written(tmp_path, pairs), *options)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
