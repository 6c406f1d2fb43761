"""A tiny model on disk."""

from __future__ import annotations

import pytest
import torch
from sampled_model import OTHER_END, PAD, VOCABULARY
from tiny_llama import tiny_llama
from transformers import GenerationConfig


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model on disk whose own generation config would end and filter responses otherwise."""
    path = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_llama(
            VOCABULARY, layers=2, positions=32, pad=PAD, end=OTHER_END, head=32
        )  # the least that vLLM takes on a CPU
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    model.generation_config = GenerationConfig(eos_token_id=OTHER_END, repetition_penalty=1.3, min_new_tokens=3)
    model.save_pretrained(path)
    return path
