"""A random Llama of a few thousand weights; the caller seeds it."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(vocabulary, *, layers=1, positions=64, pad=0, start=1, end=2, head=8):
    """Return a causal language model with two heads of so many numbers each."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=head,
        max_position_embeddings=positions,
        pad_token_id=pad,
        bos_token_id=start,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config)
