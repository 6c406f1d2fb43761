"""docs/example_package: installed as a third party's package is, without touching preflab, and run."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from preflab import Batch, Pair, Rollout, Scores
from preflab.method.configured import make_method

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "docs" / "example_package"
FILES = sorted((PACKAGE / "example_methods").glob("[!_]*.py"))
COMMANDS = re.search(r"^```sh\n(.*?)^```", (PACKAGE / "README.md").read_text(), re.DOTALL | re.MULTILINE)[
    1
].splitlines()
EXACT = {"atol": 1e-12, "rtol": 0}


def method(file, **config):
    return make_method(f"{PACKAGE / 'example_methods' / file}", config).algorithm


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed the package into, from a copy: building leaves things behind."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", folder / "site"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, folder / "source"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def run(command, folder, *more):
    """Run one of the README's commands as a person would who has installed the package."""
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments, *map(str, more)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_installs_this_folder():
    assert COMMANDS[0].startswith("pip install --no-deps --no-build-isolation")
    assert ROOT / shlex.split(COMMANDS[0])[-1] == PACKAGE


def test_the_methods_are_listed_by_name(installed):
    lines = dict(line.split(maxsplit=1) for line in run(COMMANDS[1], installed).splitlines())
    assert lines["dpop"].startswith("DPO-Positive")
    assert lines["opo"].startswith("Policy gradient with the reward baseline")
    assert "dpo" in lines


def test_the_methods_are_compared(installed, tiny_model_path):
    words = [f"word{i}" for i in range(3, 15)]
    rows = [{"prompt": f"{a} {b}", "chosen": "word1 word1", "rejected": "word2 word2"} for a in words for b in words]
    (installed / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = [f"--{name}.{field}" for name in ("opo",) for field in ("rollout-prompts", "per-device-train-batch-size")]
    run(
        COMMANDS[2],
        installed,
        *("--model", tiny_model_path, "--dataset", "pairs.jsonl", "--max-steps", 2, "--lora-rank", 4, "--threads", 1),
        *("--eval-prompts", 8, "--eval-pairs", 4, "--max-prompt-tokens", 8, "--max-response-tokens", 4),
        *(part for option in batches for part in (option, 8)),
    )
    comparison = json.loads((installed / "runs/default/comparison.json").read_text())
    assert set(comparison["methods"]) == {"sft", "dpo", "dpop", "opo"}
    for name in ("dpop", "opo"):
        assert math.isfinite(comparison["methods"][name]["kl"]["mean"])
        assert comparison["methods"][name]["train"]["steps"] == 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_is_short_and_imports_only_preflab(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 30
    imported = {line.split()[1].split(".")[0] for line in lines if re.match(r"\s*(from|import) ", line)}
    assert imported - set(sys.stdlib_module_names) == {"preflab", "torch"}  # torch: for type checking only
    assert "if TYPE_CHECKING:\n    from torch" in file.read_text(encoding="utf-8")


def test_dpop_worked_value():
    # Chosen lost 1 nat, rejected 4: margin −1 + 4 = 3, less 5 · 1 is −2. Chosen gained 2, rejected lost 1: margin 3.
    logps = torch.tensor([[-8.0, -12.0], [-5.0, -9.0], [-7.0, -8.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-7.0, -8.0]] * 3, dtype=torch.float64)
    loss = method("dpop.py:DPOP", beta=0.5)
    values = loss.pair_loss(Pair(logps, reference, torch.full((3, 2), 5)))
    expected = [math.log1p(math.exp(-0.5 * argument)) for argument in (-2.0, 3.0, 0.0)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), **EXACT)
    # While chosen is below the reference, it counts 1 + λ = 6 times as much as rejected; above it, the same.
    (gradient,) = torch.autograd.grad(values.sum(), logps)
    assert (gradient[:2, 0] / gradient[:2, 1]).tolist() == pytest.approx([-6.0, -1.0])
    assert (gradient[:, 0] < 0).all()


def test_opo_worked_value():
    # Lengths 1 and 3, rewards 4 and 0: the baseline is (1 · 4 + 3 · 0) / 4 = 1, not the mean 2.
    mask = torch.arange(3) < torch.tensor([[[1], [3]]])
    batch = Batch(torch.ones(1, 1), torch.ones(1, 1).bool(), torch.ones(1, 2, 3), mask)
    rewards = torch.tensor([[4.0, 0.0]], dtype=torch.float64)
    rollout = Rollout(batch, Scores(rewards=rewards), torch.ones(1, 2).bool())
    advantages = method("opo.py:OPO").advantages(rewards, rollout)
    torch.testing.assert_close(advantages, torch.tensor([[3.0, -1.0]], dtype=torch.float64), **EXACT)
