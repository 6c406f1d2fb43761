"""The base model of the reviews world: a small Llama, trained on an unaligned corpus.

Those of the default world, whole and quick, come with the package (``bases/``), so that every machine compares from the
same weights: training on another processor gives others. They were made by ``python -m preflab.worlds.reviews``.
Those of other worlds are trained on first use, on the CPU, and cached.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.disk.cached import THREADS, cached_folder, pinned
from preflab.disk.digests import digest
from preflab.progress import tracked
from preflab.worlds.reviews.grammar import GRAMMAR_VERSION, UNALIGNED, vocabulary, write_response

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BASE_VERSION = 2
"""Part of the cache key: raise it with any change to the model or its training."""

CONTEXT = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseSize:
    """Sizes of the base model and its training; all of them are part of the cache key."""

    hidden: int = 96
    layers: int = 2
    heads: int = 4
    steps: int = 1400
    batch: int = 16
    learning_rate: float = 6e-3


QUICK = BaseSize(steps=300)


EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""One and the same; stored once."""

BASES = Path(__file__).parent / "bases"
"""Weights that come with the package, each named by what decides it."""


def base_name(prompts: Sequence[str], size: BaseSize, seed: int) -> str:
    """Return the name of a base model: a digest of all that decides its weights, on one kind of processor."""
    styles = [(asdict(style), share) for style, share in UNALIGNED.items()]
    key = [GRAMMAR_VERSION, BASE_VERSION, styles, asdict(size), seed, THREADS, list(prompts)]
    return f"reviews-base-{digest(json.dumps(key), 16)}"


def base_folder(prompts: Sequence[str], size: BaseSize, seed: int, cache: Path) -> Path:
    """Return the folder of the base model, training it first unless it is there or comes with the package.

    Args:
        prompts: what the corpus is written about; none that an evaluation uses.
        size: sizes and number of steps.
        seed: seed of corpus, initial weights and order.
        cache: folder under which models are kept.
    """
    name = base_name(prompts, size, seed)

    def make(folder: Path) -> None:
        weights = BASES / f"{name}.safetensors"
        if weights.is_file():
            model, tokenizer = shipped_base(weights, size)
        else:
            logger.info("training the base model of the reviews world")
            model, tokenizer = train_base(prompts, size, seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return cached_folder(cache / name, make)


def shipped_base(weights: Path, size: BaseSize) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return a base model whose weights come with the package, and its tokenizer."""
    from safetensors.torch import load_file

    tokenizer = make_tokenizer()
    with pinned(0):
        model = _new_model(size, tokenizer)
    state = load_file(weights)
    model.load_state_dict({**state, HEAD: state[EMBEDDINGS]})
    return model.eval(), tokenizer


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: BOS before every text, no end token, left padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", words["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,  # else " ." would come back as "."
        model_max_length=CONTEXT,
    )


def train_base(prompts: Sequence[str], size: BaseSize, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a base model on an unaligned corpus: next token of prompt, response and end token.

    The caller's random state, default dtype and number of threads are left as they were.
    """
    import torch
    from transformers import get_cosine_schedule_with_warmup

    tokenizer = make_tokenizer()
    rng = random.Random(f"reviews base {seed}")
    with pinned(seed):
        model = _new_model(size, tokenizer)
        optimizer = torch.optim.AdamW(model.parameters(), size.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimizer, min(50, size.steps // 10), size.steps)
        batches = _batches(_corpus(prompts, size.steps * size.batch, tokenizer, rng), size.batch, rng)
        for ids in tracked(batches, "training the reviews base (once)", "step", size.steps):
            labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
            # Padding is on the right here, so causal attention alone keeps it out of sight.
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    logger.info("base model: %d steps, last loss %.3f", size.steps, loss.item())
    return model.eval(), tokenizer


def _new_model(size: BaseSize, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=3 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=size.hidden**-0.5,  # the default of 0.02 is meant for far wider models
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).train()


def _corpus(
    prompts: Sequence[str], count: int, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> list[list[int]]:
    chosen = [rng.choice(prompts) for _ in range(count)]
    texts = [f"{prompt} {write_response(prompt, UNALIGNED, rng)} {tokenizer.eos_token}" for prompt in chosen]
    ids: list[list[int]] = tokenizer(texts)["input_ids"]
    return ids


def _batches(corpus: list[list[int]], size: int, rng: random.Random) -> list[torch.Tensor]:
    """Cut into batches of similar length (least padding), right-padded with 0, in random order."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ordered = sorted(corpus, key=len)
    batches = [
        pad_sequence([torch.tensor(row) for row in ordered[i : i + size]], batch_first=True)
        for i in range(0, len(ordered), size)
    ]
    rng.shuffle(batches)
    return batches
