"""SmolLM2-135M-Instruct and a reward of one's own: a verifier on a column, and an endpoint, for DPO, PPO and RLOO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge_server import Server, completion

from eval.records.comparison import read_comparison

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COMPARE = Path(__file__).parents[2] / "recipes" / "compare.py"
CONFIG = """
pair: {per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
sampled: {rollout_prompts: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, rollout_epochs: 1}
rloo: {samples_per_prompt: 2}
max_response_tokens: 16
eval_prompts: 2
eval_pairs: 2
baseline_draws: 1
oracle_samples: 0
report: false
"""
RIGHT = """
def right(response, answer, messages):
    assert messages[-1]["role"] == "user" and "<|im_" not in response
    return float(answer in response)
"""


@pytest.fixture
def compare(tmp_path):
    model = os.environ.get("PREFLAB_SMOLLM2")
    if not model:
        pytest.skip("needs SmolLM2-135M-Instruct, a folder in the environment variable PREFLAB_SMOLLM2")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {n} plus 1? Only the number."}],
            "chosen": [{"role": "assistant", "content": str(n + 1)}],
            "rejected": [{"role": "assistant", "content": "I do not know."}],
            "answer": str(n + 1),
        }
        for n in range(24)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "mine.py").write_text(RIGHT)

    def make(*options):
        files = ("--model", model, "--dataset", "sums.jsonl", "--config", "config.yaml", "--output", "run")
        short = ("--algorithms", "dpo,ppo,rloo", "--max-steps", 1, "--sft", "none")
        command = [sys.executable, str(COMPARE), *map(str, (*files, *short, *options))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200)
        assert answer.returncode == 0, answer.stderr
        return read_comparison(tmp_path / "run" / "comparison.json"), tmp_path / "run"

    return make


def rewards(run: Path, name: str) -> list[float]:
    (stage,) = (run / "stages").glob(f"{name}-seed0-*")
    return [json.loads(line)["reward"] for line in (stage / "metrics.jsonl").read_text().splitlines()]


def test_a_verifier_trains_and_judges(compare):
    found, folder = compare("--reward", "mine.py:right")
    assert found.judge.name == "reward right"
    assert not list((folder / "stages").glob("reward-*")), "no reward model is trained"
    for name in ("ppo", "rloo"):
        assert all(0.0 <= reward <= 1.0 for reward in rewards(folder, name))


def test_an_endpoint_trains(compare, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    server.answer = lambda body: completion("Weighed.\nSCORE: 7")
    try:
        where = ("--reward-endpoint-url", server.url, "--reward-endpoint-model", "m", "--reward-endpoint-cache", "paid")
        _, folder = compare("--reward", "endpoint", *where, "--gold-fraction", 0)
    finally:
        server.close()
    assert rewards(folder, "ppo") == rewards(folder, "rloo") == [7.0]
    request = server.requests[0][2]["messages"][1]["content"]
    assert "What is" in request
    assert "<|im_" not in request
