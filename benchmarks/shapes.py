"""Random models and batches for measuring: the cost of a step does not depend on what the weights say."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from preflab.data.encoding import EncodedGroup

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
END = SPECIAL.index("</s>")


class Shape(NamedTuple):
    """What of a decoder decides its cost; `kind` is Transformers' name of the architecture."""

    kind: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    tied: bool = True
    dtype: str = "float32"


SHAPES = {
    "toy": Shape("qwen2", 512, 32, 64, 2, 4, 2),
    "llama-toy": Shape("llama", 512, 32, 64, 2, 4, 2),
    "llama-5.6m": Shape("llama", 4096, 256, 640, 6, 4, 4),
    "llama-60m": Shape("llama", 4096, 640, 1664, 12, 10, 10),
    "smollm2-135m": Shape("llama", 49_152, 576, 1536, 30, 9, 3),
    "qwen2.5-0.5b": Shape("qwen2", 151_936, 896, 4864, 24, 14, 2, dtype="bfloat16"),
    "qwen2.5-1.5b": Shape("qwen2", 151_936, 1536, 8960, 28, 12, 2, dtype="bfloat16"),
    "qwen2.5-7b": Shape("qwen2", 152_064, 3584, 18_944, 28, 28, 4, tied=False, dtype="bfloat16"),
}


def make_tokenizer(vocabulary: int) -> Any:
    """Return a word-level tokenizer of so many entries."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *(f"w{i}" for i in range(vocabulary - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(folder: Path, name: str = "llama-5.6m", end_rate: float | None = None) -> Path:
    """Save a random model of a shape, and its tokenizer; return the folder.

    Args:
        folder: where.
        name: of the shape.
        end_rate: probability of the end token at every position, about; None: as it comes, near 1/vocabulary.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    shape = SHAPES[name]
    config = AutoConfig.for_model(
        shape.kind,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    if end_rate is not None:
        prefer_end(model, end_rate)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()  # this process may live on beside those that measure
    make_tokenizer(shape.vocabulary).save_pretrained(folder)
    return folder


def prefer_end(model: Any, rate: float) -> None:
    """Give the end token this probability, averaged over positions of random text.

    All words get a common direction in their embedding, which the residual stream carries to the head; how far the end
    token's row of the head points that way decides its probability, and is found by bisection.
    """
    import torch

    with torch.no_grad():
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings[:, 0] = embeddings.std() * math.sqrt(embeddings.shape[1])
        states = model.base_model(torch.randint(len(SPECIAL), len(head), (8, 32), device=model.device))[0].flatten(0, 1)
        head[END, 0] = 0.0
        logits = (states @ head.T).float()
        end, direction = logits[:, END].clone(), states[:, 0].float()
        logits[:, END] = -math.inf
        low, high = -1e3, 1e3
        for _ in range(60):
            middle = (low + high) / 2
            below = (end + middle * direction - logits.logsumexp(1)).sigmoid().mean() < rate
            low, high = (middle, high) if below else (low, middle)
        head[END, 0] = low


def make_groups(
    count: int, prompt: int, response: int, k: int = 2, seed: int = 0, vocabulary: int = 4096
) -> list[EncodedGroup]:
    """Return groups with prompts of `prompt` tokens and k responses of half to all of `response` tokens."""
    rng = random.Random(seed)

    def words(length: int) -> list[int]:
        return [rng.randrange(len(SPECIAL), vocabulary) for _ in range(length)]

    def responses() -> list[list[int]]:
        return [[*words(rng.randint(max(1, response // 2), response) - 1), END] for _ in range(k)]

    return [EncodedGroup(words(prompt), responses(), row) for row in range(count)]
