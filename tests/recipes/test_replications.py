"""``compare.py --redraw``: a seed that is a whole replication."""

from __future__ import annotations

import pytest
from recipe_runner import check_record, names_of, read, run_warm, stages

BOTH = ["--algorithms", "dpo,ppo", "--seeds", "0,1"]


def test_every_seed_trains_what_its_methods_stand_on(finished, copy, options, tmp_path):
    before = stages(copy)
    redraw = ["--redraw", "method,reward,start"]
    answer = run_warm("compare.py", *options, "--output", copy, *BOTH, *redraw, cwd=tmp_path)
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name: after[name] for name in before} == before, "seed 0 stands on what was there"
    own = {"sft-seed1", "reward-seed1", "dpo-seed1", "ppo-seed1", "reference"}
    assert own <= names_of(set(after) - set(before))
    check_record(copy / "comparison.json")
    comparison = read(copy / "comparison.json")
    assert comparison["redrawn"] == ["sft", "reward model"]
    assert "common" not in comparison
    kin, covered = comparison["headline"].split(". ", 1)
    assert kin.startswith("Judged by a reward model of the same base, start and recipe as the one maximised")
    assert covered.startswith("Of methods, 2 replications with sft and reward model of their own: ")
    assert comparison["budgets"]["stands_on"]["ppo"] == ["sft", "reward model"]
    assert comparison["methods"]["sft"]["gold_reward"]["n"] == comparison["methods"]["dpo"]["gold_reward"]["n"] == 32
    again = run_warm("compare.py", *options, "--output", copy, *BOTH, *redraw, cwd=tmp_path)
    assert again.status == 0, again.err
    assert stages(copy) == after, "nothing is built twice"


def test_what_all_seeds_share_is_said_before_who_won(copy, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", copy, *BOTH, "--redraw", "method", cwd=tmp_path)
    assert answer.status == 0, answer.err
    comparison = read(copy / "comparison.json")
    assert comparison["common"] == ["sft", "reward model"]
    assert ". Of methods on this one sft and this one reward model, 2 seeds: " in comparison["headline"]


@pytest.mark.parametrize(
    ("redraw", "said"),
    [
        ("method,start", "what stands on a stage is drawn anew with it; name method,reward,start"),
        ("reward", "name method,reward"),
        ("data", "redraw names 'data'; it takes method, reward, start"),
    ],
)
def test_sources_that_make_no_replication_are_refused(redraw, said, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", "new", "--redraw", redraw, cwd=tmp_path)
    assert answer.status == 2
    assert said in answer.err
