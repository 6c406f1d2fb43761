"""The base model of the exact world: a small Llama fitted to random next-token probabilities, and cached."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preflab.disk.cached import THREADS, cached_folder, pinned
from preflab.disk.digests import digest
from preflab.worlds.exact.language import (
    EXACT,
    MAX_RESPONSE_TOKENS,
    PROMPTS,
    RARE_SHARE,
    SERIES,
    Array,
    Language,
    all_responses,
    token_scores,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from preflab.method.contract import Batch

BASE_VERSION = 3
"""Part of the cache key: raise it with any change to the model or its training."""

LEANING = 1.0
"""How much of the reward's scores is in the logits of the base."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseSize:
    """Sizes of the base model and its training; all of them are part of the cache key."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    steps: int = 400
    learning_rate: float = 1e-2


def base_folder(size: BaseSize, seed: int, cache: Path, language: Language = EXACT) -> Path:
    """Return the folder of the base model, training it first unless it is there."""
    key = [BASE_VERSION, LEANING, SERIES, asdict(size), seed, THREADS, PROMPTS]
    key += [RARE_SHARE, language.rare] if language.rare else []
    name = digest(json.dumps(key), 16)

    def make(folder: Path) -> None:
        train_base(size, seed, language).save_pretrained(folder)
        make_tokenizer(language).save_pretrained(folder)

    return cached_folder(cache / f"{language.name}-base-{name}", make)


def make_tokenizer(language: Language = EXACT) -> PreTrainedTokenizerFast:
    """Return the tokenizer: a symbol is a token; the end token is the only other one, starts texts and pads too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    end = "</s>"
    tokenizer = Tokenizer(
        models.WordLevel({**{s: i for i, s in enumerate(language.symbols)}, end: language.end}, unk_token=end)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A $B", special_tokens=[(end, language.end)]
    )
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", model_max_length=16, **names)


def every_response(language: Language = EXACT) -> Batch:
    """Return all responses to all prompts, ``[X, N, T]`` in the order of `all_responses`."""
    return _with_each_prompt(all_responses(language), language)


def _with_each_prompt(responses: Sequence[tuple[int, ...]], language: Language) -> Batch:
    from preflab.data.batches import collate
    from preflab.data.encoding import EncodedGroup

    ids = [list(response) for response in responses]
    end, place = language.end, language.symbols.index
    prompts = [[end, *(place(symbol) for symbol in prompt.split())] for prompt in PROMPTS]
    return collate([EncodedGroup(prompt, ids, row) for row, prompt in enumerate(prompts)], end)


def train_base(size: BaseSize, seed: int, language: Language = EXACT) -> Any:
    """Fit a model to random next-token probabilities, after every prefix alike.

    The caller's random state, default dtype and number of threads are left as they were.
    """
    import torch
    from transformers import get_cosine_schedule_with_warmup

    from preflab.scoring.packing import prompt_once_states

    prefixes = list(itertools.product(range(language.end), repeat=MAX_RESPONSE_TOKENS - 1))
    # The last token is seen by none: it only makes room for what is said after the whole prefix.
    batch = _with_each_prompt([(*prefix, language.end) for prefix in prefixes], language)
    with pinned(seed):
        rows = [[next_tokens(x, p, seed, language) for p in prefixes] for x in range(len(PROMPTS))]
        target = torch.from_numpy(np.array(rows))
        model = _new_model(size, language)
        optimizer = torch.optim.AdamW(model.parameters(), size.learning_rate, betas=(0.9, 0.95))
        schedule = get_cosine_schedule_with_warmup(optimizer, size.steps // 10, size.steps)
        for _ in range(size.steps):
            logits = model.lm_head(prompt_once_states(model.base_model, batch)).view(*target.shape)
            loss = -(target.float() * logits.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    logger.info("base model of the exact world: %d steps, last loss %.3f", size.steps, loss.item())
    # No padding from here on: a classifier would look for a response's last token before its end, and here that a
    # response ended is what tells it from a longer one. (Trained without, the end token would have had an embedding.)
    model.config.pad_token_id = None
    return model.eval()


def next_tokens(prompt: int, prefix: tuple[int, ...], seed: int, language: Language = EXACT) -> Array:
    """Return what the base is fitted to: probabilities ``[T, V]`` of each token of a response that starts so.

    They hang on the prompt, the place and the token before, as the reward does; so then does the optimum's
    next token, which a small adapter can learn in a minute. And they lean towards the reward, as a model does
    that was fine-tuned on demonstrations: what is best is then seen often enough to be learnt from labels.
    """
    rng = np.random.default_rng([seed, 1, SERIES])
    scores = token_scores(seed)  # of symbols in use: the rare ones are put between
    at_place = 0.6 * rng.normal(size=scores.at_place.shape)[prompt] + LEANING * scores.at_place[prompt]
    in_a_row = language.widened(0.4 * rng.normal(size=scores.in_a_row.shape) + LEANING * scores.in_a_row, 0.0, axis=0)
    before = np.stack([np.zeros(at_place.shape[1]), *in_a_row[list(prefix)]])
    weights = np.exp(at_place + before)
    return language.widened(weights / weights.sum(1, keepdims=True), RARE_SHARE, axis=1)


def response_logps(model: Any, batch: Batch) -> Tensor:
    """Return log π(y|x) of whole responses, ``[X, N]``."""
    from preflab.scoring.logps import token_logps
    from preflab.scoring.packing import prompt_once_states

    states = prompt_once_states(model.base_model, batch)
    return token_logps(model, states, batch, 1.0).sum(-1)


def _new_model(size: BaseSize, language: Language) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=language.end + 1,
            hidden_size=size.hidden,
            intermediate_size=2 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=16,
            # Untied, so that adapters can reach the output head.
            tie_word_embeddings=False,
            initializer_range=size.hidden**-0.5,
            pad_token_id=language.end,
            bos_token_id=language.end,
            eos_token_id=language.end,
        )
    ).train()
