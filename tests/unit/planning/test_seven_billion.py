"""Seven billion weights, of which there is nothing but a config: what the plan says that they take, and how."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig, Qwen2Config

from preflab.algorithms.dpo import DPO
from preflab.algorithms.ppo import PPO
from preflab.planning.footprint import Sketch, uniform
from preflab.settings.training import LoraSettings

GIB = 2**30
SHAPES = {
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
    "llama-2-7b": LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        tie_word_embeddings=False,
    ),
}
LORA = LoraSettings(lora_rank=16, lora_alpha=32, dtype="bfloat16")


@pytest.mark.parametrize("shape", SHAPES)
def test_ppo_with_four_roles_on_four_bits_fits_in_24_gib(shape):
    sketch = Sketch(SHAPES[shape], replace(LORA, load_in="4bit"), "cuda")
    four = ("policy", "reference", "reward", "value")
    told = sketch.footprint(uniform(4, 512, 256), PPO(PPO.Config()).needs, roles=four, checkpointing=True)
    drawn = sketch.sampling(32, 1, 512, 256)
    assert 3 * GIB < told.base < 7 * GIB
    assert told.total - told.passes + max(told.passes, drawn) <= 24 * GIB


@pytest.mark.parametrize("shape", SHAPES)
def test_dpo_in_bfloat16_with_checkpoints_fits_in_24_gib(shape):
    sketch = Sketch(SHAPES[shape], LORA, "cuda")
    told = sketch.footprint(uniform(1, 1024, 512, 2), DPO(DPO.Config()).needs, checkpointing=True)
    assert 12 * GIB < told.base < 16 * GIB
    assert told.total <= 24 * GIB


def test_the_default_of_old_does_not():
    sketch = Sketch(SHAPES["qwen2.5-7b"], LORA, "cuda")
    assert sketch.footprint(uniform(32, 1024, 512, 2), DPO(DPO.Config()).needs).total > 80 * GIB
