"""The recipes end to end, on a tiny random model and a small preference file."""

from __future__ import annotations

import json
import math

import pytest
from preference_files import preference_rows, write_rows
from recipe_runner import MY_LOSS, check_record, figures, names_of, read, run, run_warm, stages

ESTIMATES = ("win_rate", "gold_reward", "proxy_reward", "heldout_accuracy", "kl", "response_length")
TRAINING = {"reference", "sft", "reward", "judge", "dpo-seed0", "ppo-seed0"}
EVALUATION = {
    "eval-baseline",
    "eval-sft",
    "eval-dpo-seed0",
    "eval-ppo-seed0",
    "eval-reward",
    "eval-judge",
    "reference-samples",
}


def check_estimate(estimate, n):
    assert set(estimate) == {"mean", "low", "high", "n"}
    assert estimate["low"] <= estimate["mean"] <= estimate["high"]
    assert estimate["n"] == n


def proxies(run_folder, stage):
    [path] = run_folder.glob(f"stages/{stage}-*/samples.jsonl")
    return [json.loads(line)["proxy"] for line in path.read_text().splitlines()]


def metrics_lines(run_folder):
    for path in run_folder.glob("stages/*/metrics.jsonl"):
        for line in path.read_text().splitlines():
            yield path, json.loads(line)


def test_compare_prints_a_table_and_writes_every_figure(finished):
    folder, answer = finished
    assert answer.status == 0, answer.err
    for word in ("sft", "dpo", "ppo", "win", "held-out", "training", "comparison.json"):
        assert word in answer.out
    comparison = read(folder / "comparison.json")
    assert set(comparison["methods"]) == {"sft", "dpo", "ppo"}
    for method in comparison["methods"].values():
        for name in ESTIMATES:
            check_estimate(method[name], n=16)
        assert method["train"]["seconds"] > 0
        assert method["train"]["tokens"] > 0
        assert method["train"]["peak_memory_bytes"] > 2**20
    check_estimate(comparison["reward_model"]["heldout_accuracy"], n=16)
    assert comparison["seeds"] == [0]
    assert comparison["versions"]["torch"]
    assert comparison["config"]["methods"]["ppo"]["train"]["max_steps"] == 8
    splits = comparison["data"]["splits"]
    assert sum(splits[name]["rows"] for name in ("pairs", "heldout", "gold_pairs")) == 96
    assert all(split["fingerprint"] for split in splits.values())
    check_record(folder / "comparison.json")


def test_stages_are_those_of_the_issue_and_their_losses_are_finite(finished):
    folder, _ = finished
    assert names_of(set(stages(folder))) == TRAINING | EVALUATION
    assert not list((folder / "stages").glob(".*"))  # nothing half-done
    steps = {}
    for path, line in metrics_lines(folder):
        assert all(math.isfinite(v) for v in line.values() if isinstance(v, (int, float))), (path, line)
        steps.setdefault(path.parent.name.rpartition("-")[0], []).append(line["step"])
    assert steps == {
        "sft": [1, 2, 3],
        "dpo-seed0": [1, 2, 3, 4],
        **{name: list(range(1, 9)) for name in ("reward", "judge", "ppo-seed0")},
    }


def test_training_moves_the_figures(finished):
    """With these learning rates the reward model must see the planted difference, and each method must differ."""
    comparison = read(finished[0] / "comparison.json")
    assert comparison["reward_model"]["heldout_accuracy"]["mean"] > 0.8
    kls = {name: method["kl"]["mean"] for name, method in comparison["methods"].items()}
    assert kls["sft"] == 0
    assert kls["dpo"] != 0
    assert kls["ppo"] != 0


def test_again_every_stage_is_reused(finished, copy, options, tmp_path):
    before = stages(copy)
    (copy / "comparison.json").write_text('{"methods": {')  # what a crash of another tool might leave
    answer = run_warm("compare.py", *options, "--output", copy, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert stages(copy) == before
    # Times and memory too: they come from the stages' own records.
    assert read(copy / "comparison.json")["methods"] == read(finished[0] / "comparison.json")["methods"]
    assert figures(read(copy / "comparison.json")) == figures(read(finished[0] / "comparison.json"))
    assert answer.out.splitlines()[:-2] == finished[1].out.splitlines()[:-2]  # the last two name the folder
    written = [f"written to {copy / 'comparison.json'}", f"report at {copy / 'report' / 'report.html'}"]
    assert answer.out.splitlines()[-2:] == written
    assert (copy / "report" / "report.html").is_file()


def test_a_stage_that_is_not_whole_is_built_again(finished, copy, options, tmp_path):
    before = stages(copy)
    [dpo], [samples] = copy.glob("stages/dpo-seed0-*"), copy.glob("stages/eval-sft-*")
    (dpo / "stage.json").unlink()
    (samples / "stage.json").unlink()
    (samples / "samples.jsonl").write_text('{"prompt": ')
    partial = copy / "stages" / f".{dpo.name}.partial"
    partial.mkdir()
    (partial / "metrics.jsonl").write_text('{"step": 1, "loss": 9')
    answer = run_warm("compare.py", *options, "--output", copy, cwd=tmp_path)
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name for name in after if after[name] != before[name]} == {dpo.name, samples.name}
    assert figures(read(copy / "comparison.json")) == figures(read(finished[0] / "comparison.json"))


@pytest.mark.slow
def test_only_what_depends_on_a_change_is_trained(copy, options, tmp_path):
    (tmp_path / "my_loss.py").write_text(MY_LOSS)
    before = stages(copy)
    answer = run_warm(
        "compare.py",
        *options,
        *("--output", copy, "--algorithms", "dpo,trl-dpo,my_loss.py:MyLoss", "--dpo.beta", "0.5"),
        *("--MyLoss.some_field", "0.5", "--MyLoss.max-steps=4", "--MyLoss.learning-rate=1e-2"),
        "--MyLoss.per-device-train-batch-size=8",
        cwd=tmp_path,
    )
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name: after[name] for name in before} == before
    trained = {"dpo-seed0", "trl-dpo-seed0", "MyLoss-seed0"}
    assert names_of(set(after) - set(before)) == trained | {f"eval-{name}" for name in trained}
    comparison = read(copy / "comparison.json")
    assert list(comparison["methods"]) == ["sft", "dpo", "trl-dpo", "MyLoss"]
    methods = comparison["methods"]
    assert comparison["config"]["methods"]["MyLoss"]["config"] == {"some_field": 0.5}
    # With beta = some_field = 0.5 the file's loss is DPO; TRL's differs in nothing but its beta here (0.1).
    assert methods["MyLoss"]["heldout_accuracy"] == methods["dpo"]["heldout_accuracy"]
    assert methods["MyLoss"]["kl"] == methods["dpo"]["kl"]
    assert methods["trl-dpo"]["kl"] != methods["dpo"]["kl"]
    for name in ("dpo", "trl-dpo", "MyLoss"):
        assert name in answer.out


def test_best_of_n_stands_in_the_table_without_training(copy, options, tmp_path):
    before = stages(copy)
    choice = ["--output", copy, "--algorithms", "dpo,best-of-n", "--best-of-n.n", "8"]
    answer = run_warm("compare.py", *options, *choice, cwd=tmp_path)
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name: after[name] for name in before} == before
    assert names_of(set(after) - set(before)) == {"best-of-n-seed0", "eval-best-of-n-seed0"}
    [own], [sft] = (copy.glob(f"stages/{name}-*/policy/adapter_model.safetensors") for name in ("best-of-n", "sft"))
    assert own.read_bytes() == sft.read_bytes()
    comparison = read(copy / "comparison.json")
    assert list(comparison["methods"]) == ["sft", "dpo", "best-of-n"]
    start, method = comparison["methods"]["sft"], comparison["methods"]["best-of-n"]
    for name in ESTIMATES:
        check_estimate(method[name], n=16)
    assert method["train"]["steps"] == method["train"]["tokens"] == 0
    best, one = (proxies(copy, f"eval-{name}") for name in ("best-of-n-seed0", "sft"))
    assert sum(b > o for b, o in zip(best, one, strict=True)) >= 12  # of 16; 8 of 9 are expected
    assert 0 < method["kl"]["mean"] <= math.log(8) - 7 / 8
    assert method["heldout_accuracy"] == comparison["reward_model"]["heldout_accuracy"]
    assert start["heldout_accuracy"]["mean"] == 0.5  # the policy itself is the reference
    assert "best-of-n" in answer.out


def test_several_seeds_are_pooled(copy, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", copy, "--algorithms", "dpo", "--seeds", "0,1", cwd=tmp_path)
    assert answer.status == 0, answer.err
    comparison = read(copy / "comparison.json")
    assert comparison["seeds"] == [0, 1]
    check_estimate(comparison["methods"]["dpo"]["kl"], n=32)
    assert len(list(copy.glob("stages/dpo-seed*"))) == 2


@pytest.mark.parametrize("recipe", ["sft", "reward_model", "dpo", "ppo"])
def test_a_single_recipe_finds_the_stages_of_a_comparison(copy, options, tmp_path, recipe):
    before = stages(copy)
    answer = run_warm(f"{recipe}.py", *options, "--output", copy, cwd=tmp_path)
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name: after[name] for name in before} == before
    assert not names_of(set(after) - set(before)) & TRAINING
    name = recipe.removesuffix("_model")
    assert f"stages/{name}" in answer.out  # where the weights are
    check_record(copy / f"{name}.json")
    result = read(copy / f"{name}.json")["methods"][name]
    check_estimate(result["heldout_accuracy"], n=16)
    assert result["train"] is not None


def test_evaluate_opens_what_the_others_saved(finished, copy, options, tmp_path):
    [sft], [dpo], [reward] = (copy.glob(f"stages/{name}-*") for name in ("sft", "dpo-seed0", "reward"))
    models = f"dpo={dpo / 'policy'},scorer={reward / 'reward'}"
    answer = run(  # a process of its own: the name of this script is also that of a library
        "evaluate.py",
        *options,
        *("--models", models, "--sft", sft / "policy", "--reward-model", reward / "reward"),
        *("--gold-fraction", "0.25", "--output", copy),
        cwd=tmp_path,
    )
    assert answer.status == 0, answer.err
    methods = read(copy / "evaluation.json")["methods"]
    assert list(methods) == ["reference", "dpo", "scorer"]
    # The same rows and seeds as compare.py used: the same figures.
    comparison = read(finished[0] / "comparison.json")
    for name in ("heldout_accuracy", "kl", "proxy_reward", "response_length"):
        assert methods["dpo"][name] == comparison["methods"]["dpo"][name]
    assert methods["scorer"]["heldout_accuracy"] == comparison["reward_model"]["heldout_accuracy"]


def test_without_a_judge_the_table_has_no_win_rate(options, tmp_path):
    choice = ["--algorithms", "dpo", "--gold-fraction", "0", "--max-steps", "1", "--output", "run"]
    answer = run_warm("compare.py", *options, *choice, cwd=tmp_path)
    assert answer.status == 0, answer.err
    comparison = read(tmp_path / "run" / "comparison.json")
    assert comparison["judge"] is None
    assert comparison["methods"]["dpo"]["win_rate"] is None
    assert comparison["methods"]["dpo"]["gold_reward"] is None
    check_estimate(comparison["methods"]["dpo"]["proxy_reward"], n=16)
    assert "dpo" in answer.out
    assert "judge" not in names_of(set(stages(tmp_path / "run")))


def test_bad_and_long_rows_are_counted(options, tmp_path):
    rows = preference_rows(96)
    rows[2] = {"prompt": "word1", "chosen": "word2"}
    rows[5] = {"prompt": "word1", "chosen": " word2", "rejected": " word2"}
    rows[7]["chosen"] = " word1" * 9  # one more than fits
    write_rows(tmp_path / "rows.jsonl", rows)
    choice = ["--dataset", "rows.jsonl", "--algorithms", "dpo", "--max-steps", "1", "--output", "run"]
    answer = run_warm("compare.py", *options, *choice, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "2 bad rows dropped" in answer.err
    assert "row 3" in answer.err
    assert "row 6" in answer.err
    source = read(tmp_path / "run" / "comparison.json")["data"]["facts"]["sources"]["dataset"]
    assert source["rows read"] == 96
    assert sum(reason["count"] for reason in source["bad rows"].values()) == 2
    assert sum(source["too long"].values()) == 1


def test_the_methods_are_listed(tmp_path):
    answer = run("compare.py", "--algorithms", "list", cwd=tmp_path)
    assert answer.status == 0
    assert {line.split()[0] for line in answer.out.splitlines()} >= {"sft", "reward", "dpo", "ppo", "trl-dpo"}


@pytest.mark.parametrize("recipe", ["sft", "reward_model", "dpo", "ppo", "evaluate", "compare"])
def test_help_names_the_fields(recipe, tmp_path):
    answer = run(f"{recipe}.py", "--help", "all", cwd=tmp_path)
    assert answer.status == 0
    for flag in ("--model", "--dataset", "--output", "--config", "--eval-prompts"):
        assert flag in answer.out
    assert ("--kl-coefficient" in answer.out) == (recipe == "ppo")
