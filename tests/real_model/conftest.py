"""SmolLM2-135M-Instruct, a few rows of messages, and recipes run on them for a step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from arithmetic import sums
from recipe_runner import run

from preflab.eval.records.comparison import Comparison, read_comparison

CONFIG = """
pair: {per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
reward: {per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
sampled: {rollout_prompts: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, rollout_epochs: 1}
rloo: {samples_per_prompt: 2}
max_response_tokens: 16
eval_prompts: 8
eval_pairs: 2
baseline_draws: 1
oracle_samples: 0
report: false
"""


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The model's folder."""
    model = os.environ.get("PREFLAB_SMOLLM2")
    if not model:
        pytest.skip("needs SmolLM2-135M-Instruct, a folder in the environment variable PREFLAB_SMOLLM2")
    return model


@pytest.fixture
def compare(smollm2: str, tmp_path: Path) -> Callable[..., tuple[Comparison, Path]]:
    """Compare DPO, PPO and RLOO after a step, from the model as it is; return what was found, and the run."""
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums()))
    (tmp_path / "config.yaml").write_text(CONFIG)

    def make(*options: object) -> tuple[Comparison, Path]:
        files = ("--model", smollm2, "--dataset", "sums.jsonl", "--config", "config.yaml", "--output", "run")
        short = ("--algorithms", "dpo,ppo,rloo", "--max-steps", 1, "--sft", "none")
        answer = run("compare.py", *map(str, (*files, *short, *options)), cwd=tmp_path, limit=1200, OMP_NUM_THREADS="1")
        assert answer.status == 0, answer.err
        return read_comparison(tmp_path / "run" / "comparison.json"), tmp_path / "run"

    return make
