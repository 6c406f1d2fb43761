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


def test_every_seed_draws_its_preferences_and_what_stands_on_them(copy, options, tmp_path):
    before = stages(copy)
    every = "method,reward,start,data"
    answer = run_warm("compare.py", *options, "--output", copy, *BOTH, "--redraw", every, cwd=tmp_path)
    assert answer.status == 0, answer.err
    comparison = read(copy / "comparison.json")
    assert comparison["redrawn"] == ["sft", "reward model", "preferences"]
    assert "2 replications with sft, reward model and preferences of their own: " in comparison["headline"]
    trained = names_of(set(stages(copy)) - set(before))
    assert {"sft", "reward", "dpo-seed0", "sft-seed1", "reward-seed1", "dpo-seed1"} <= trained, "seed 0 draws too"


def test_learning_curves_take_the_start_as_it_is_and_a_reward_model_of_their_own(copy, options, tmp_path):
    before = stages(copy)
    asked = [*options, "--output", copy, "--algorithms", "dpo,ppo,best-of-n", "--train-fraction", "0.5,1,0.5"]
    answer = run_warm("compare.py", *asked, cwd=tmp_path)
    assert answer.status == 0, answer.err
    check_record(copy / "comparison.json")
    comparison = read(copy / "comparison.json")
    points = comparison["learning"]
    names = ("dpo", "ppo", "best-of-n")
    assert [(point["method"], point["fraction"]) for point in points] == [(n, f) for n in names for f in (0.5, 1.0)]
    for half, whole in zip(points[::2], points[1::2], strict=True):
        assert half["preferences"] < 0.8 * whole["preferences"]
        figures = comparison["methods"][whole["method"]]
        for name in ("gold_reward", "win_rate"):
            assert whole[name] == figures[name]
    made = names_of(set(stages(copy)) - set(before))
    assert {"reward", "dpo-seed0-of-0.5", "ppo-seed0-of-0.5"} <= made
    assert "sft" in made, "it learnt from the chosen responses of all pairs"
    assert "dpo and reward trains for max_steps" not in answer.err
    assert "dpo, ppo, reward trains for max_steps" in answer.err
    assert 'id="learning"' in (copy / "report" / "report.html").read_text(encoding="utf-8")
    assert (copy / "report" / "figures" / "learning.svg").is_file()
    after = stages(copy)
    again = run_warm("compare.py", *asked, cwd=tmp_path)
    assert again.status == 0, again.err
    assert stages(copy) == after, "nothing is built twice"


def test_a_budget_and_fewer_preferences_are_refused_together(options, tmp_path):
    both = ["--algorithms", "dpo,ppo", "--train-fraction", "0.5", "--match", "tokens"]
    answer = run_warm("compare.py", *options, "--output", "new", *both, cwd=tmp_path)
    assert answer.status == 2
    assert "--train-fraction trains for as many epochs" in answer.err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--redraw", "method,reward,start,data", "--seeds", "0"], "one seed shows no spread"),
        (["--train-fraction", "0.5", "--algorithms", "sft", "--sft", "none"], "sft learns from no preferences"),
    ],
)
def test_samples_that_say_nothing_are_refused_before_anything_is_trained(asked, said, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", "new", *asked, cwd=tmp_path)
    assert answer.status == 2
    assert said in answer.err
    assert not list((tmp_path / "new").glob("stages/*-seed*"))


@pytest.mark.parametrize(
    ("redraw", "said"),
    [
        ("method,start", "what stands on a stage is drawn anew with it; name method,reward,start"),
        ("reward", "name method,reward"),
        ("data", "name method,reward,start,data"),
        ("judge", "redraw names 'judge'; it takes method, reward, start, data"),
    ],
)
def test_sources_that_make_no_replication_are_refused(redraw, said, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", "new", "--redraw", redraw, cwd=tmp_path)
    assert answer.status == 2
    assert said in answer.err
