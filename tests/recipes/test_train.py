"""``train.py METHOD``: any method, registered or one's own; without one, the list."""

from __future__ import annotations

import json
import os

import pytest
from recipe_runner import MY_LOSS, RECIPES, names_of, read, run, run_warm, stages

from preflab.method import registry

SMALL = ["--max-steps", "2", "--per-device-train-batch-size", "8"]


def test_the_first_line_comes_before_the_libraries(options, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    answer = run(
        "train.py",
        "dpo",
        *options,
        "--output",
        "run",
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(RECIPES.parent)]),
    )
    model, data = options[1], options[3]
    said, after = answer.err.partition(f" dpo: model {model}, real world of {data}, into run\n")[::2]
    assert "torch" not in said
    assert "torch was imported" in after


def test_training_alone_evaluates_nothing_and_needs_nothing_held_out(options, tmp_path):
    alone = ["--evaluate", "false", "--heldout-fraction", "0", "--eval-steps", "1", "--early-stopping", "2"]
    answer = run_warm("train.py", "dpo", *options, *SMALL, *alone, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert names_of(set(stages(tmp_path / "run"))) == {"sft", "dpo-seed0"}, "two steps read few of the rows"
    assert [path.name for path in (tmp_path / "run").glob("*.json")] == ["manifest.json"]
    [stage] = (tmp_path / "run" / "stages").glob("dpo-seed0-*")
    assert [json.loads(line)["step"] for line in (stage / "validation.jsonl").read_text().splitlines()] == [1, 2]
    assert "dpo-seed0, looked at after step 2: loss" in answer.err
    assert answer.out == f"weights: {stage.relative_to(tmp_path) / 'policy'}\n"
    assert "stage 2 of 2: dpo-seed0 done" in answer.err
    refused = run_warm("train.py", "dpo", *options, "--heldout-fraction", "0", "--output", "other", cwd=tmp_path)
    assert (refused.status, "held-out" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(("name", "own"), [("kto", ["--beta", "0.3"]), ("my_loss.py:MyLoss", ["--some-field", "0.5"])])
def test_a_method_is_trained_and_judged_against_its_start(name, own, options, tmp_path):
    (tmp_path / "my_loss.py").write_text(MY_LOSS)
    answer = run_warm("train.py", name, *options, *own, *SMALL, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    label = name.rpartition(":")[2]
    assert set(read(tmp_path / "run" / f"{label}.json")["methods"]) == {"start", label}
    found = {stage for stage in names_of(set(stages(tmp_path / "run"))) if not stage.startswith("eval-")}
    assert found == {"sft", f"{label}-seed0"}
    [stage] = (tmp_path / "run" / "stages").glob(f"{label}-seed0-*")
    inputs = json.loads((stage / "stage.json").read_text())["inputs"]
    field = own[0].removeprefix("--").replace("-", "_")
    assert (inputs["config"][field], inputs["train"]["max_steps"]) == (float(own[1]), 2)
    assert str(stage.relative_to(tmp_path) / "policy") in answer.out


def test_stages_that_others_stand_on_are_found_again(finished, copy, options, tmp_path):
    before = stages(copy)
    for name in ("sft", "reward"):
        answer = run_warm("train.py", name, "--output", copy, *options, cwd=tmp_path)
        assert answer.status == 0, answer.err
    assert all(name.startswith("eval-") for name in set(stages(copy)) - set(before))


@pytest.mark.parametrize("arguments", [[], ["--beta", "0.1"], ["--beta", "0.1", "dpo"]], ids=len)
def test_without_a_method_there_is_a_list(arguments, tmp_path):
    answer = run_warm("train.py", *arguments, cwd=tmp_path)
    assert (answer.status, answer.out) == (2, "")
    [line] = answer.err.splitlines()
    assert "name the method first" in line
    assert set(registry.registered()) <= set(line.rpartition("known: ")[2].split(", "))


def test_a_method_that_is_none_and_a_field_of_another_are_answered(tmp_path):
    for arguments, part in ((["dqo"], "did you mean 'dpo'"), (["dpo", "--clip-range", "1"], "--clip-range")):
        answer = run_warm("train.py", *arguments, cwd=tmp_path)
        assert answer.status == 2
        assert part in answer.err
    answer = run_warm("train.py", "--help", cwd=tmp_path)
    assert answer.status == 0
    assert "my_loss.py:MyLoss" in answer.out
