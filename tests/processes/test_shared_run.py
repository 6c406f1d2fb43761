"""Two processes (gloo) train what one does: same keys, same weights, same costs, whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from preference_files import preference_rows, write_rows
from recipe_runner import torchrun
from safetensors.torch import load_file
from shared_run import METHODS, open_experiment, train

SCRIPT = Path(__file__).parent / "shared_run.py"
TOLERANCE = 1e-5
COSTS = ("steps", "tokens", "sampled_tokens", "trained_tokens", "prompts", "responses", "pairs", "flops")
LIMIT = 240


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_model_path):
    folder = tmp_path_factory.mktemp("given")
    write_rows(folder / "pairs.jsonl", preference_rows(96))
    shutil.copytree(tiny_model_path, folder / "model")
    return folder


@pytest.fixture(scope="module")
def one(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    experiment = open_experiment(folder, given)
    train(experiment)
    experiment.run.close()
    return folder / "stages"


@pytest.fixture(scope="module")
def two(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    finish(torchrun(SCRIPT, folder, given, cwd=folder.parent))
    return folder / "stages"


def finish(processes):
    _, said = processes.communicate(timeout=LIMIT)
    assert processes.returncode == 0, said[-3000:]


def weights(stages, name):
    (folder,) = stages.glob(f"{name}-*")
    found = {
        f"{path.parent.name}/{key}": value
        for path in sorted(folder.rglob("adapter_model.safetensors"))
        for key, value in load_file(path).items()
    }
    assert found
    return found, json.loads((folder / "stage.json").read_text())["record"]


def check_same(left, right, names=METHODS):
    for name in names:
        (ours, record), (theirs, other) = weights(left, name), weights(right, name)
        assert ours.keys() == theirs.keys()
        worst = max((ours[key] - theirs[key]).abs().max().item() for key in ours)
        assert worst <= TOLERANCE, (name, worst)
        assert {cost: record[cost] for cost in COSTS} == {cost: other[cost] for cost in COSTS}, name


def test_stages_have_the_keys_of_one_process(one, two):
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_the_weights_of_one(one, two, name):
    check_same(one, two, [name])


@pytest.mark.parametrize("name", METHODS)
def test_what_was_logged_is_of_both_processes(one, two, name):
    ours, theirs = (json.loads(next(x.glob(f"{name}-*/stage.json")).read_text())["record"]["final"] for x in (one, two))
    assert ours.keys() == theirs.keys()
    for metric in ours:
        if "runtime" not in metric and "per_second" not in metric:
            assert theirs[metric] == pytest.approx(ours[metric], rel=1e-3, abs=1e-4), metric


def process_of(launcher, rank):
    """Return the id of the process of a rank."""
    for folder in Path("/proc").iterdir():
        try:
            ours = folder.name.isdecimal() and f"PPid:\t{launcher.pid}\n" in (folder / "status").read_text()
            if ours and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_changes_no_weight(one, given, tmp_path, rank):
    launcher, until = torchrun(SCRIPT, tmp_path / "run", given, cwd=tmp_path), time.monotonic() + LIMIT
    while not list((tmp_path / "run").glob("stages/.ppo-*.partial/checkpoint-4/trainer_state.json")):
        assert launcher.poll() is None, launcher.communicate()[1][-3000:]
        assert time.monotonic() < until
        time.sleep(0.001)
    os.kill(process_of(launcher, rank), signal.SIGKILL)
    launcher.communicate(timeout=LIMIT)
    assert launcher.returncode != 0
    assert not list((tmp_path / "run").glob("stages/ppo-*")), "too late"
    finish(torchrun(SCRIPT, tmp_path / "run", given, cwd=tmp_path))
    check_same(one, tmp_path / "run" / "stages", ["dpo", "ppo", "rloo"])


def test_a_base_in_pieces_changes_no_weight(one, given, tmp_path):
    folder, names = tmp_path / "run", ["reward", "dpo", "ppo"]
    finish(torchrun(SCRIPT, folder, given, *names, cwd=tmp_path))
    check_same(one, folder / "stages", names)


def test_what_processes_do_together(given, tmp_path):
    finish(torchrun(SCRIPT.with_name("primitives.py"), given / "model", tmp_path, cwd=tmp_path))
