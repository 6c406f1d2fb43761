"""SmolLM2-135M-Instruct drawn from by vLLM itself, where both are there: RLOO and PPO in float32, two steps."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make test-vllm"),
]


def test_in_float32_the_engine_draws_from_what_is_scored(compare):
    drawn = [f"--{method}.{option}" for method in ("rloo", "ppo") for option in ("sampler=vllm", "vllm-memory=0.05")]
    _, run = compare("--algorithms", "rloo,ppo", "--max-steps", 2, "--seeds", 0, "--workers", 1, *drawn)
    for method in ("rloo", "ppo"):
        (path,) = run.glob(f"stages/{method}-seed0-*/metrics.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        gaps = [line["sampler_gap"] for line in lines if "sampler_gap" in line]
        assert gaps
        assert max(gaps) <= 1e-5, (method, gaps)
