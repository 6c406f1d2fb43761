"""RLOO and PPO on rollouts that vLLM itself draws, where it is installed (`make test-vllm`): the gap, kills."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from recipe_runner import Warm, figures, read, run, run_warm, stages
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make test-vllm")

METHODS = ("rloo", "ppo")

CONFIG = """
sampled: {sampler: vllm, vllm_memory: 0.02, rollout_prompts: 8, rollout_epochs: 2, max_steps: 8, save_steps: 4}
rloo: {learning_rate: 1e-2, per_device_train_batch_size: 8, logging_steps: 1, samples_per_prompt: 2}
"""


@pytest.fixture(scope="module")
def drawn_by_vllm(options, tmp_path_factory, tiny_tokenizer):
    """Options of a comparison of RLOO and PPO on a base with heads that vLLM takes on a CPU."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(tiny_tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    LlamaForCausalLM(LlamaConfig(**shape, **tokens, max_position_embeddings=128)).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    (folder / "config.yaml").write_text(options[-1].read_text() + CONFIG)
    files = ["--model", folder / "model", "--config", folder / "config.yaml"]
    return [*options, *files, "--algorithms", ",".join(METHODS), "--workers", "1"]


@pytest.fixture(scope="module")
def whole(drawn_by_vllm, tmp_path_factory):
    """A comparison that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    answer = run("compare.py", *drawn_by_vllm, "--output", "run", cwd=folder)
    assert answer.status == 0, answer.err
    return folder / "run"


def metrics(run_folder, method):
    (path,) = run_folder.glob(f"stages/{method}-seed0-*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_in_float32_the_engine_draws_from_what_is_scored(whole, method):
    gaps = [line["sampler_gap"] for line in metrics(whole, method) if "sampler_gap" in line]
    assert len(gaps) >= 2, "a rollout from other weights than the first"
    assert 0 < max(gaps) <= 1e-5


def test_killed_between_rollouts_it_ends_with_the_same_figures(whole, drawn_by_vllm, tmp_path):
    folder = tmp_path / "run"
    for method in METHODS:
        attempt = Warm("compare.py", *drawn_by_vllm, "--output", "run", cwd=tmp_path)
        attempt.kill_when(folder, f"stages/.{method}-seed0-*.partial/checkpoint-4/trainer_state.json")
    answer = run_warm("compare.py", *drawn_by_vllm, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert figures(read(folder / "comparison.json")) == figures(read(whole / "comparison.json"))
    assert set(stages(folder)) == set(stages(whole))
    for method in METHODS:
        (policy,) = whole.glob(f"stages/{method}-seed0-*/policy/adapter_model.safetensors")
        assert (folder / policy.relative_to(whole)).read_bytes() == policy.read_bytes(), method


def test_heads_too_narrow_for_a_cpu_are_answered_before_anything_is_trained(options, tmp_path):
    narrow = ["--output", "run", "--algorithms", "ppo", "--ppo.sampler", "vllm"]
    answer = run_warm("compare.py", *options, *narrow, cwd=tmp_path)
    assert answer.status == 2
    assert "32 numbers or more" in answer.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
