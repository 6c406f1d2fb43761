"""Other programs in environments of their own (`make test-peers`), run on files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from preflab.settings.training import LoraSettings

LORA = LoraSettings(lora_rank=4, lora_alpha=8, dtype="float32")
ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
# A fork of eight tokenising processes in RewardBench, each with as many threads as there are cores, takes minutes.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment; skip where there is none."""
    python = ROOT / f".venv-peers-{peer}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {peer} in .venv-peers-{peer}: make test-peers")
    return python


def run_in(peer: str, command: Sequence[object], cwd: Path, seconds: int = 280) -> str:
    """Run a command with a peer's interpreter, where preflab is not; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET | ONE_THREAD
    done = subprocess.run(
        [str(python_of(peer)), *map(str, command)],
        cwd=cwd,
        env={**environment, "HF_HOME": str(cwd / "hub")},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def export(*arguments: object, cwd: Path) -> str:
    """Run `preflab export`; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "preflab", "export", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
