"""Tiny random bases of several families, and batches for them."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

from preflab.method.contract import Batch
from preflab.model.base import without_dropout
from preflab.settings.training import LoraSettings

VOCABULARY = 41
LORA = LoraSettings(lora_rank=3, lora_alpha=6)
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": lambda **k: LlamaConfig(**COMMON, num_key_value_heads=2, **k),
    "qwen2": lambda **k: Qwen2Config(**COMMON, num_key_value_heads=2, **k),
    "neox": lambda **k: GPTNeoXConfig(**COMMON, **k),
    "gpt2": lambda **k: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **k,
    ),
}


def make_base(family="llama", dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**options)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.requires_grad_(False)
    without_dropout(model)
    return model


def shake(roles, *names, scale=0.2):
    """Make adapters do something: PEFT starts B at zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name in names:
            for parameter in roles.parameters_of(name):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return roles


def make_batch(prompts=(5, 3), responses=((4, 1), (2, 3)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    width, length = max(prompts), max(map(max, responses))
    shape = (len(prompts), len(responses[0]), length)
    return Batch(
        torch.randint(3, VOCABULARY, (len(prompts), width), generator=generator),
        torch.arange(width) >= width - torch.tensor(prompts)[:, None],
        torch.randint(3, VOCABULARY, shape, generator=generator),
        torch.arange(length) < torch.tensor(responses)[..., None],
    )


@torch.no_grad()
def score(roles, batch, *names):
    return roles(batch, names)


def step(roles, batch, rate=0.1):
    """Take one plain gradient step on the policy."""
    parameters = roles.learn(("policy",))
    roles(batch, ("policy",)).logps.sum().backward()
    with torch.no_grad():
        for parameter in parameters:
            parameter.sub_(rate * parameter.grad)
    roles.learn(())


def same_scores(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
