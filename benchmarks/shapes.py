"""Random models and batches for measuring: the cost of a step does not depend on what the weights say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from preflab.encoding import EncodedGroup

WORDS = 4096 - 4


def make_tokenizer() -> Any:
    """Return a word-level tokenizer of 4,096 entries."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(folder: Path, hidden: int = 256, layers: int = 6) -> Path:
    """Save a random Llama (5.6 million parameters by default) and its tokenizer; return the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 4,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_groups(count: int, prompt: int, response: int, k: int = 2, seed: int = 0) -> list[EncodedGroup]:
    """Return groups with prompts of `prompt` tokens and k responses of half to all of `response` tokens."""
    rng = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [rng.randrange(4, WORDS) for _ in range(length - 1)] + [2]

    return [
        EncodedGroup(ids(prompt), [ids(rng.randint(response // 2, response)) for _ in range(k)], row)
        for row in range(count)
    ]
