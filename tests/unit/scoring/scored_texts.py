"""Models of many families, batches for them, and their log-probabilities one sequence at a time."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from preflab.method.contract import Batch
from preflab.scoring.fused import fused_states
from preflab.scoring.logps import plain_states, single_states, token_logps
from preflab.scoring.packing import prompt_once_states

VOCABULARY, JUNK = 41, 10**6
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {k: v for k, v in COMMON.items() if k not in ("num_key_value_heads", "intermediate_size")}
WINDOW = 4  # shorter than the prompts
FUSED = ("llama", "qwen2", "qwen3", "mistral")
EXACT = {
    "llama": lambda: LlamaConfig(**COMMON),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=8),
    "mistral": lambda: MistralConfig(**COMMON, sliding_window=WINDOW),
    "gemma3": lambda: Gemma3TextConfig(
        **COMMON, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi3": lambda: Phi3Config(**COMMON),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "neox": lambda: GPTNeoXConfig(**WIDE, intermediate_size=48),
    "opt": lambda: OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0),
}
ALL = {**EXACT, "gemma2": lambda: Gemma2Config(**COMMON, head_dim=8, sliding_window=WINDOW)}


def make_model(family, dtype=torch.float64):
    """Return a tiny random model whose attention is far from uniform: a wrong position or mask shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ALL[family]()).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return model


def make_batch(prompts=(9, 6, 1), responses=((5, 2), (1, 5), (3, 4)), seed=0, junk=JUNK):
    """Return ragged left-padded prompts and right-padded responses, junk ids under the masks."""
    generator = torch.Generator().manual_seed(seed)
    width, size, length = max(prompts), len(responses[0]), max(map(max, responses))
    shape = (len(prompts), size, length)
    prompt_mask = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    mask = torch.arange(length) < torch.tensor(responses)[..., None]
    ids = torch.randint(3, VOCABULARY, (len(prompts), width), generator=generator)
    response_ids = torch.randint(3, VOCABULARY, shape, generator=generator)
    return Batch(ids.masked_fill(~prompt_mask, junk), prompt_mask, response_ids.masked_fill(~mask, junk), mask)


def sequences(batch):
    for b in range(len(batch.prompt_ids)):
        prompt = batch.prompt_ids[b][batch.prompt_mask[b]]
        for k in range(batch.response_ids.shape[1]):
            yield b, k, prompt, batch.response_ids[b, k][batch.response_mask[b, k]]


def oracle_logps(model, batch, temperature=1.0):
    """log softmax(logits / temperature) at each response token, one sequence at a time."""
    found = torch.zeros(batch.response_mask.shape, dtype=model.dtype)
    for b, k, prompt, response in sequences(batch):
        logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        logps = (logits / temperature).log_softmax(-1)
        for t, token in enumerate(response):
            found[b, k, t] = logps[len(prompt) + t - 1, token]
    return found


def gradients(model, total):
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def by(path, model, batch, temperature=1.0):
    return token_logps(model, path(model.base_model, batch), batch, temperature)


TEXTS = {
    "pairs": {},
    "one response": {"responses": ((5,), (1,), (3,))},
    # So little padding that it is run along.
    "even": {"prompts": (9, 9, 8), "responses": ((5,), (5,), (5,))},
}


PATHS = {"fused": fused_states, "once": prompt_once_states, "plain": plain_states, "single": single_states}
