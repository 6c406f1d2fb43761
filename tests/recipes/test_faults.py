"""What goes wrong: wrong input is answered at once, in one line; SIGKILL at any moment changes no figure."""

from __future__ import annotations

import fcntl
import os
import shutil

import pytest
from preference_files import preference_rows, write_rows
from recipe_runner import Warm, figures, read, run, run_warm, stages


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory):
    """A path of modules on which importing torch fails: loading it takes seconds."""
    folder = tmp_path_factory.mktemp("no_torch")
    (folder / "torch.py").write_text("raise RuntimeError('torch was imported')")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def check_refusal(answer, *parts):
    assert answer.status == 2, answer
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, answer.err
    assert answer.err.rstrip().endswith(lines[0]), answer.err  # nothing after it, and not spread over lines
    assert answer.out == ""
    for part in parts:
        assert part in lines[0]


# ---- Wrong input, before anything heavy is loaded --------------------------------------------------

FIELDS = [
    (["--eval-promts", "3"], ["--eval-promts", "--eval-prompts"]),
    (["--dpo.bta", "0.2"], ["dpo", "'bta'", "'--dpo.beta'"]),
    (["--dpo.beta", "high"], ["dpo", "beta", "'high'", "float"]),
    (["--dpo.beta", "nan"], ["beta", "nan"]),
    (["--dpo.beta", "-1"], ["beta", "-1", "at least"]),
    (["--dpo.beta"], ["--dpo.beta", "value"]),
    (["--eval-prompts", "1.5"], ["eval-prompts", "'1.5'", "int"]),
    (["--eval-prompts"], ["--eval-prompts"]),
    (["--threads", "0"], ["threads", "at least 1"]),
    (["--bad-rows", "keep"], ["bad_rows", "'keep'", "drop", "refuse"]),
    (["--seeds", ""], ["seeds"]),
    (["--seeds", "0,x"], ["seeds", "'x'", "int"]),
    (["--seeds", "0,1,0"], ["seeds", "0,1,0"]),
    (["stray"], ["stray"]),
    (["--max-steps", "0"], ["max_steps", "at least 1"]),
    (["--algorithms", "dop"], ["'dop'", "'dpo'"]),
    (["--algorithms", ""], ["algorithms"]),
    (["--algorithms", "dpo,dpo"], ["dpo, dpo"]),
    (["--algorithms", "dpo,sft"], ["sft"]),
    (["--algorithms", "nothing.py:Loss"], ["nothing.py", "does not exist"]),
    (["--algorithms", "no.such.module:Loss"], ["no.such.module"]),
    (["--dop.beta", "0.2"], ["section", "'dop'", "'dpo'"]),
    (["--ppo.rollout-prompts", "12"], ["rollout_prompts", "12", "8 × 1", "set rollout_prompts to"]),
    (["--ppo.lr-scheduler-type", "cosin"], ["lr_scheduler_type", "'cosin'", "cosine"]),
    (["--ppo.save-steps", "3"], ["save_steps", "3", "multiple"]),
    (["--sft.max-steps", "0", "--sft.num-train-epochs", "1"], ["sft", "max_steps"]),
    (["--model", "./no_such_model"], ["model", "no_such_model", "does not exist"]),
    (["--dataset", "no_such.jsonl"], ["dataset", "no_such.jsonl", "does not exist"]),
    (["--heldout", "no_such.jsonl"], ["heldout", "no_such.jsonl", "does not exist"]),
    (["--config", "no_such.yaml"], ["no_such.yaml", "does not exist"]),
    (["--config"], ["--config"]),
    (["--heldout-fraction", "0.5", "--gold-fraction", "0.5"], ["heldout_fraction", "gold_fraction"]),
    (["--world", "function"], ["function", "--reward"]),
]


@pytest.mark.parametrize(("wrong", "parts"), FIELDS, ids=lambda x: " ".join(x) if x and x[0][:1] == "-" else None)
def test_a_wrong_option_is_answered_before_torch_is_loaded(options, no_torch, tmp_path, wrong, parts):
    check_refusal(run("compare.py", *options, *wrong, cwd=tmp_path, PYTHONPATH=no_torch), *parts)
    assert not (tmp_path / "runs").exists()


CONFIGS = {
    "not YAML": ("seeds: [0]\ndpo: [1, 2", ["mine.yaml", "not readable YAML", "line 2"]),
    "a list": ("- dpo", ["mapping"]),
    "a field": ("evl_prompts: 3", ["'evl_prompts'", "'eval_prompts'"]),
    "a section": ("dop: {beta: 0.2}", ["'dop'", "'dpo'"]),
    "a section's field": ("dpo: {bta: 0.2}", ["'bta'", "'beta'"]),
    "a section's type": ("dpo: {beta: [1]}", ["beta", "[1]", "float"]),
    "a type": ("eval_prompts: many", ["eval_prompts", "'many'", "int"]),
    "a truth value": ("eval_prompts: true", ["eval_prompts", "True", "int"]),
    "an empty section": ("dpo:", ["dpo"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config_is_answered_before_torch_is_loaded(no_torch, tmp_path, name):
    text, parts = CONFIGS[name]
    (tmp_path / "mine.yaml").write_text(text)
    check_refusal(run("compare.py", "--config", "mine.yaml", cwd=tmp_path, PYTHONPATH=no_torch), *parts)


@pytest.mark.parametrize(
    ("recipe", "wrong", "parts"),
    [
        ("dpo.py", ["--bta", "0.2"], ["--bta", "--beta"]),
        ("ppo.py", ["--rollout-prompts", "12"], ["rollout_prompts", "12"]),
        ("sft.py", ["--dataset", "no_such.jsonl"], ["no_such.jsonl"]),
        ("reward_model.py", ["--config", "no_such.yaml"], ["no_such.yaml"]),
        ("evaluate.py", [], ["--models"]),
        ("evaluate.py", ["--models", "adapter"], ["'adapter'", "name=PATH"]),
        ("evaluate.py", ["--models", "mine=nowhere"], ["nowhere", "adapter_config.json"]),
    ],
)
def test_the_other_recipes_answer_alike(options, no_torch, tmp_path, recipe, wrong, parts):
    check_refusal(run(recipe, *options, *wrong, cwd=tmp_path, PYTHONPATH=no_torch), *parts)


def test_a_broken_method_file_is_named(options, no_torch, tmp_path):
    (tmp_path / "broken.py").write_text("def loss(:\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "partial.py").write_text("class Loss:\n    pass\n")
    (tmp_path / "failing.py").write_text("\nclass Loss(Pairwise): ...\n")
    broken, failing = ["SyntaxError", "broken.py, line 1"], ["NameError", "'Pairwise'", "failing.py, line 2"]
    cases = [
        ("broken.py", broken),
        ("failing.py", failing),
        ("empty.py", ["'Loss'"]),
        ("partial.py", ["lacks kind", "inherit preflab.Pairwise"]),
    ]
    for file, parts in cases:
        answer = run("compare.py", *options, "--algorithms", f"{file}:Loss", cwd=tmp_path, PYTHONPATH=no_torch)
        check_refusal(answer, *parts)


# ---- Wrong data and folders ------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_before_torch_is_loaded(options, no_torch, tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for recipe in ("compare.py", "dpo.py"):
            answer = run(recipe, *options, "--output", "run", cwd=tmp_path, PYTHONPATH=no_torch)
            check_refusal(answer, "run", "in use")


def test_a_folder_that_cannot_be_made_is_refused_before_torch_is_loaded(options, no_torch, tmp_path):
    (tmp_path / "file").touch()
    answer = run("compare.py", *options, "--output", "file/run", cwd=tmp_path, PYTHONPATH=no_torch)
    check_refusal(answer, "file/run", "cannot be written")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["rows.jsonl has no usable row: it is empty"]),
        (preference_rows(1), ["too little data"]),
        ([{"chosen": "word1"}] * 40, ["missing field", "40"]),
        ([{"prompt": "word1", "chosen": "word2", "rejected": "word2"}] * 40, ["chosen equal to rejected", "40"]),
        ([{"prompt": "word1 " * 99, "chosen": " word2", "rejected": " word3"}] * 40, ["fits the token limits", "40"]),
    ],
    ids=["empty", "one row", "no rejected", "all equal", "all too long"],
)
def test_a_file_with_too_few_usable_rows_is_refused(options, tmp_path, rows, parts):
    write_rows(tmp_path / "rows.jsonl", rows)
    check_refusal(run_warm("compare.py", *options, "--dataset", "rows.jsonl", cwd=tmp_path), *parts)


def test_bad_rows_can_be_refused_by_number(options, tmp_path):
    rows = preference_rows(40)
    rows[11]["rejected"] = ""
    rows[30]["chosen"] = 7
    write_rows(tmp_path / "rows.jsonl", rows)
    answer = run_warm("compare.py", *options, "--dataset", "rows.jsonl", "--bad-rows", "refuse", cwd=tmp_path)
    check_refusal(answer, "rows.jsonl", "empty response: 1 (row 12)", "not text: 1 (row 31)")


def test_a_folder_that_is_no_model_is_refused(options, tmp_path):
    (tmp_path / "model").mkdir()
    check_refusal(run_warm("compare.py", *options, "--model", "./model", cwd=tmp_path), "model", "cannot be loaded")


def test_a_model_with_broken_weights_is_refused(options, tiny_model_path, tmp_path):
    shutil.copytree(tiny_model_path, tmp_path / "model")
    os.truncate(tmp_path / "model" / "model.safetensors", 200)
    check_refusal(run_warm("compare.py", *options, "--model", "./model", cwd=tmp_path), "model", "cannot be loaded")


def test_a_field_that_only_the_library_knows_is_refused_before_training(options, tmp_path):
    config = options[-1].read_text() + "  extra: {no_such_field: 1}\n"  # of the last section, PPO's
    (tmp_path / "mine.yaml").write_text(config)
    answer = run_warm("compare.py", *options, "--config", "mine.yaml", "--output", "run", cwd=tmp_path)
    check_refusal(answer, "no_such_field")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run_on_a_line_of_its_own(options, tmp_path):
    wild = ["--sft.learning-rate", "1e3", "--sft.weight-decay", "1e3", "--sft.lr-scheduler-type", "constant"]
    answer = run_warm("compare.py", *options, *wild, "--sft.max-steps", "12", cwd=tmp_path)
    assert answer.status == 2
    last = answer.err.rstrip().splitlines()[-1]
    assert last.startswith("error:")
    assert "learning_rate" in last


# ---- SIGKILL ---------------------------------------------------------------------------------------

MOMENTS = [
    "stages/sft-*",
    "stages/.reward-*.partial",
    "stages/.reward-*.partial/checkpoint-3/trainer_state.json",
    "stages/.reward-*.partial/reward",
    "stages/.ppo-seed0-*.partial/metrics.jsonl",
    "stages/.ppo-seed0-*.partial/checkpoint-4",
    "stages/.ppo-seed0-*.partial/checkpoint-4/trainer_state.json",
    "stages/.eval-ppo-seed0-*.partial",
    "stages/.eval-sft-*.partial",
]


@pytest.mark.slow
def test_killed_at_many_moments_it_ends_with_the_same_figures(finished, options, tmp_path):
    """One run folder, killed at each moment in turn: what one kill leaves, the next attempt builds on."""
    folder = tmp_path / "run"
    for moment in MOMENTS:
        attempt = Warm("compare.py", *options, "--output", "run", "--workers", "1", cwd=tmp_path)
        attempt.kill_when(folder, moment)
        assert not (folder / "comparison.json").exists(), moment
    answer = run_warm("compare.py", *options, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert figures(read(folder / "comparison.json")) == figures(read(finished[0] / "comparison.json"))
    assert set(stages(folder)) == set(stages(finished[0]))
    for path in finished[0].glob("stages/*/*.jsonl"):
        if path.name != "metrics.jsonl":  # whose lines hold times
            assert (folder / path.relative_to(finished[0])).read_bytes() == path.read_bytes(), path
    assert not list(folder.glob("stages/.*"))


@pytest.mark.slow
def test_killed_with_stages_side_by_side_it_ends_with_the_same_figures(finished, options, tmp_path):
    folder, sided = tmp_path / "run", ["--output", "run", "--workers", "2"]
    for moment in (
        "stages/.sft-*",
        "stages/.reward-*.partial/metrics.jsonl",
        "stages/.ppo-seed0-*.partial/metrics.jsonl",
    ):
        attempt = Warm("compare.py", *options, *sided, cwd=tmp_path)
        attempt.kill_when(folder, moment)
        assert not (folder / "comparison.json").exists(), moment
    answer = run_warm("compare.py", *options, *sided, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert figures(read(folder / "comparison.json")) == figures(read(finished[0] / "comparison.json"))
    assert set(stages(folder)) == set(stages(finished[0]))
    assert not list(folder.glob("stages/.*"))


def test_a_process_of_its_own_can_be_killed_too(finished, options, tmp_path):
    """Without the warm process: the lock of a killed run does not outlive it."""
    import subprocess
    import sys

    from recipe_runner import RECIPES

    command = [sys.executable, RECIPES / "compare.py", *options, "--output", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        while not list((tmp_path / "run" / "stages").glob("sft-*")):
            assert process.poll() is None
        process.kill()
    assert process.returncode < 0
    answer = run_warm("compare.py", *options, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert figures(read(tmp_path / "run" / "comparison.json")) == figures(read(finished[0] / "comparison.json"))


def test_a_kill_while_the_result_is_written_leaves_the_old_one_whole(copy, options, tmp_path):
    """What is there is replaced in one step; a left-over of the attempt does no harm."""
    (copy / ".comparison.json.tmp").write_text("{")
    os.utime(copy / "comparison.json", (0, 0))
    answer = run_warm("compare.py", *options, "--output", copy, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert (copy / "comparison.json").stat().st_mtime > 0
    read(copy / "comparison.json")
