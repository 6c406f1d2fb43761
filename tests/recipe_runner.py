"""Running recipes as a person would, and faster: in forks of one process that has the libraries loaded."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from preflab.eval.records.comparison import read_comparison, read_evaluation
from preflab.eval.records.typed import to_json

RECIPES = Path(__file__).parents[1] / "recipes"
LIMIT = 240  # seconds; only a hang reaches it

# Importing the libraries takes as long as everything these tests train.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["preflab.experiment.experiment", "preflab.eval.harness.evaluate", "rich.table"])


MY_LOSS = '''
"""A loss of one's own."""
from dataclasses import dataclass

from preflab import Pairwise, log_sigmoid, option


@dataclass(frozen=True)
class MyConfig:
    """Fields."""

    some_field: float = option(0.1, "a factor", minimum=0.0)


class MyLoss(Pairwise):
    """L = -log sigmoid(some_field x margin)."""

    Config = MyConfig

    def pair_loss(self, pair):
        """Return the loss of each pair."""
        return -log_sigmoid(self.config.some_field * pair.margin)
'''


class Answer(NamedTuple):
    """What a command left: exit status and output."""

    status: int
    out: str
    err: str


def run(recipe: str, *arguments: str | Path, cwd: Path, limit: float = LIMIT, **environment: str) -> Answer:
    """Run ``python recipes/<recipe> <arguments>`` as a process of its own, for at most `limit` seconds."""
    command = [sys.executable, str(RECIPES / recipe), *_given(recipe, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=limit
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def torchrun(script: Path, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a script in two processes by torchrun; what they say is read by `communicate`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), *map(str, arguments)]
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), *filter(None, sys.path)])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launcher, cwd=cwd, env=settings, **pipes)


def _given(recipe: str, arguments: Sequence[str | Path]) -> list[str]:
    """Return what a recipe is given: comparisons go nowhere back to the start where no test asks for it."""
    given = [str(argument) for argument in arguments]
    asks = recipe != "compare.py" or "--interpolate" in given or "list" in given
    return given if asks else [*given, "--interpolate", "1"]


class Warm:
    """The same command in a fork of a process that has imported the libraries and done nothing else."""

    def __init__(self, recipe: str, *arguments: str | Path, cwd: Path) -> None:
        self.cwd = cwd
        self.process = WARM.Process(target=_run_script, args=(recipe, _given(recipe, arguments), str(cwd)))
        self.process.start()

    def wait(self) -> Answer:
        """Wait for the end."""
        self.process.join(LIMIT)
        assert self.process.exitcode is not None, "the recipe hangs"
        out, err = ((self.cwd / name).read_text(encoding="utf-8") for name in ("out.txt", "err.txt"))
        return Answer(self.process.exitcode, out, err)

    def kill_when(self, run_folder: Path, pattern: str) -> None:
        """SIGKILL the process as soon as a file or folder under `run_folder` matches `pattern`."""
        deadline = time.monotonic() + LIMIT
        while not any(run_folder.glob(pattern)):
            assert self.process.is_alive(), f"ended before {pattern} was there: {self.wait()}"
            assert time.monotonic() < deadline, f"{pattern} never came"
            self.process.join(0.001)
        self.process.kill()
        self.process.join()


def run_warm(recipe: str, *arguments: str | Path, cwd: Path) -> Answer:
    """Run a recipe in a fork of the warm process, to its end."""
    return Warm(recipe, *arguments, cwd=cwd).wait()


def _run_script(recipe: str, arguments: list[str], cwd: str) -> None:
    os.chdir(cwd)
    for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = [str(RECIPES / recipe), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.stdout.flush()


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file, as strictly as JSON is."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def figures(comparison: Any) -> Any:
    """Return a comparison without what may differ between two runs: costs, command, commit and folder."""
    changing = ("seconds", "peak_memory_bytes", "command", "commit", "output", "workers", "budgets")
    if isinstance(comparison, dict):
        return {name: figures(value) for name, value in comparison.items() if name not in changing}
    return [figures(value) for value in comparison] if isinstance(comparison, list) else comparison


def stages(run_folder: Path) -> dict[str, int]:
    """Return each finished stage's folder and the latest change of anything in it."""
    folders = [folder for folder in (run_folder / "stages").iterdir() if not folder.name.startswith(".")]
    return {f.name: max(path.stat().st_mtime_ns for path in [f, *f.rglob("*")]) for f in folders}


def names_of(folders: set[str]) -> set[str]:
    """Return stage names without their keys."""
    return {name.rpartition("-")[0] for name in folders}


def check_record(path: Path, kind: str = "comparison") -> None:
    """See that a file is what its published schema says, and is read and written again without a change."""
    found = read(path)
    schema = read(RECIPES.parent / "docs" / "schema" / f"{kind}.schema.json")
    assert [error.message for error in Draft202012Validator(schema).iter_errors(found)] == []
    record = read_evaluation(path) if kind == "evaluation" else read_comparison(path)
    assert json.loads(json.dumps(to_json(record))) == found
