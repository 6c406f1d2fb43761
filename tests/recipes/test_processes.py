"""compare.py and train.py under torchrun: the figures of one process, told once; what cannot be shared is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from recipe_runner import RECIPES, figures, read, run, run_warm, stages, torchrun

LIMIT = 240


def finished_by_two(recipe, *arguments, cwd, **environment):
    processes = torchrun(RECIPES / recipe, *arguments, cwd=cwd, **environment)
    out, err = processes.communicate(timeout=LIMIT)
    return processes.returncode, out, err


def check_close(left, right, place=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for name in left:
            check_close(left[name], right[name], f"{place}.{name}")
    elif isinstance(left, list):
        assert len(left) == len(right), place
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            check_close(one, other, f"{place}[{number}]")
    elif isinstance(left, float) and isinstance(right, float):
        assert left == pytest.approx(right, rel=1e-3, abs=2e-4), place
    else:
        assert left == right, place


def test_a_comparison_by_two_processes_has_the_figures_of_one(options, tmp_path):
    # Rates at which rounding does not grow into other samples.
    calm = [x for name in ("sft", "reward", "dpo", "ppo") for x in (f"--{name}.learning-rate", "1e-3")]
    given = [*options, *calm, "--interpolate", "1", "--output", "run"]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    answer = run_warm("compare.py", *given, cwd=tmp_path / "one")
    assert answer.status == 0, answer.err
    status, out, err = finished_by_two("compare.py", *given, cwd=tmp_path / "two")
    assert status == 0, err[-3000:]
    assert out.count("comparison.json") == 1, "told by each"
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert stages(one).keys() == stages(two).keys()
    check_close(figures(read(one / "comparison.json")), figures(read(two / "comparison.json")))
    assert (two / "report" / "report.html").is_file()


MET = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
REFUSED = [
    ("compare.py", ["--workers", "2"], MET, ["--workers 2", "2 processes"]),
    ("compare.py", ["--dpo.per-device-train-batch-size", "9"], MET, ["dpo", "9", "train_batch_size to"]),
    ("compare.py", ["--algorithms", "trl-dpo"], MET, ["trl-dpo", "trainer of its own"]),
    ("compare.py", [], {"WORLD_SIZE": "2"}, ["WORLD_SIZE is 2", "RANK is not set"]),
    ("compare.py", [], {**MET, "ACCELERATE_USE_DEEPSPEED": "true"}, ["DeepSpeed", "MULTI_GPU"]),
    ("compare.py", [], {**MET, "ACCELERATE_USE_FSDP": "true"}, ["FSDP", "shard-base"]),
    ("compare.py", ["--algorithms", "rloo", "--rloo.sampler", "vllm"], MET, ["vLLM"]),
    ("compare.py", ["--config", "engine.yaml"], {}, ["extra.deepspeed", "shard_base"]),
    ("conformance.py", ["--quick"], MET, ["2 processes"]),
    ("evaluate.py", ["--models", "a=nowhere"], MET, ["nowhere"]),
]


@pytest.mark.parametrize(("recipe", "wrong", "environment", "parts"), REFUSED)
def test_what_processes_cannot_share_is_refused(options, tmp_path, recipe, wrong, environment, parts):
    (tmp_path / "engine.yaml").write_text("dpo: {extra: {deepspeed: zero2.json}}")
    given = wrong if recipe == "conformance.py" else [*options, *wrong]
    answer = run(recipe, *given, cwd=tmp_path, **environment)
    assert answer.status == 2, answer
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert all(part in line for part in parts), line
    assert not list(tmp_path.rglob("stage.json"))


def test_a_mistake_is_said_once(options, tmp_path):
    status, _, err = finished_by_two("compare.py", *options, "--dpo.bta", "1", cwd=tmp_path)
    assert status != 0
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1, err


WITNESS = '''
"""DPO that notes which process it runs in."""
import os
import pathlib

from preflab.algorithms.dpo import DPO, DPOConfig


class Witness(DPO):
    """As DPO."""

    def loss(self, batch, scores):
        """As DPO's."""
        pathlib.Path(os.environ["SEEN"], os.environ["RANK"]).touch()
        return super().loss(batch, scores)
'''
CONFIGS = RECIPES / "configs"


def launched(config, *more, cwd):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    recipe = [RECIPES / "train.py", "witness.py:Witness", "--quick", "--evaluate", "false", "--max-steps", "2"]
    command = [*accelerate, "--num_processes", "2", *more, *map(str, recipe), "--output", "run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SEEN": str(cwd)}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "machines"), [("accelerate_1x8.yaml", 1), ("accelerate_2x8.yaml", 2)])
def test_accelerate_starts_the_processes_of_a_config(tmp_path, config, machines):
    (tmp_path / "witness.py").write_text(WITNESS)
    of_several = ["--num_machines", str(machines), "--main_process_port", "29533"] if machines > 1 else []
    begun = [launched(config, *of_several, "--machine_rank", str(rank), cwd=tmp_path) for rank in range(machines)]
    for launcher in begun:
        _, err = launcher.communicate(timeout=LIMIT)
        assert launcher.returncode == 0, err[-3000:]
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}
    (stage,) = tmp_path.glob("run/stages/[Ww]itness-*/stage.json")
    assert read(stage)["record"]["steps"] == 2
