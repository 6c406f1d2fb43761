"""A tiny model on disk."""

from __future__ import annotations

import pytest
import torch
from sampled_model import OTHER_END, PAD, VOCABULARY
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model on disk whose own generation config would end and filter responses otherwise."""
    path = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=OTHER_END,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    model.generation_config = GenerationConfig(eos_token_id=OTHER_END, repetition_penalty=1.3, min_new_tokens=3)
    model.save_pretrained(path)
    return path
