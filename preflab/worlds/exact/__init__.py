"""The exact world: every response can be enumerated, so that every expectation is a sum and the optimum is known.

Five symbols and an end token are the whole vocabulary, a response has at most three tokens: 156 responses
to each prompt, whose probabilities add up to 1. One that has three symbols was cut there and bears no end
token (`World.cut`). With ``tail`` there are three symbols more, which the reference all but never says: 429 malformed
responses, of which preferences between the reference's own say nothing, and there alone is it seen exactly what a
method makes of such. All splits share the few prompts: what this world measures is how near a method comes
to its optimum, not what it makes of prompts it never saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preflab.errors import UserError
from preflab.worlds import World, WorldConfig
from preflab.worlds.exact.base import BaseSize, base_folder, every_response, response_logps
from preflab.worlds.exact.language import (
    EXACT,
    MAX_RESPONSE_TOKENS,
    PROMPTS,
    TAIL,
    Array,
    Language,
    PlantedTable,
    all_responses,
    reward_table,
    text_of,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MAX_RESPONSE_TOKENS", "PROMPTS", "all_responses", "build", "draw", "ordered", "reward_table"]

PAIRS, HELDOUT, QUICK_PAIRS = 8192, 1024, 1024
REPEATS = 128


class Pairs(NamedTuple):
    """Pairs of responses by their index in `all_responses`; every field ``[M]``, the prompt's index first."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def build(config: WorldConfig, cache: Path, *, size: BaseSize | None = None) -> World:
    """Return the exact world of ``config.data_seed``, training its base model on first use.

    Args:
        config: data, rewards and models from elsewhere are refused.
        cache: folder that keeps the trained base model.
        size: other sizes of the base model (for tests).

    Raises:
        UserError: for options that this world cannot honour.
    """
    _refuse(config)
    seed, language = config.data_seed, TAIL if config.tail else EXACT
    model = base_folder(size or BaseSize(), seed, cache, language)
    logps, rewards = reference_logps(model, language), reward_table(seed, language)
    many = min(config.max_pairs or PAIRS, QUICK_PAIRS if config.quick else PAIRS)
    pairs = draw_pairs(logps, rewards, many, np.random.default_rng([seed, 2]))
    heldout = draw_pairs(logps, rewards, min(many, HELDOUT), np.random.default_rng([seed, 3]))
    columns = ("prompt", "chosen", "rejected")
    prompts = _dataset([{"prompt": prompt} for prompt in PROMPTS], ("prompt",))
    return World(
        name=language.name,
        model=str(model),
        demonstrations=_dataset([], ("prompt", "response")),
        pairs=_dataset(_texts(pairs, language), columns),
        heldout=_dataset(_texts(heldout, language), columns),
        gold_pairs=_dataset([], columns),
        prompts=prompts,
        # Few prompts, many answers: each is asked again and again.
        eval_prompts=_dataset([{"prompt": prompt} for prompt in PROMPTS] * REPEATS, ("prompt",)),
        gold=PlantedTable(seed, language),
        gold_key=f"{language.name}-{seed}",
        max_response_tokens=MAX_RESPONSE_TOKENS,
        facts=_facts(logps, rewards, language),
        cut=True,
    )


def reference_logps(model: Path, language: Language = EXACT) -> Array:
    """Return log π_ref of every response to every prompt, ``[X, N]``, of a saved model."""
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float64, use_safetensors=True)
    with torch.no_grad():
        return np.asarray(response_logps(base, every_response(language)).numpy())


def draw_pairs(logps: Array, rewards: Array, count: int, rng: np.random.Generator) -> Pairs:
    """Draw pairs from π_ref × π_ref, and which is preferred by Bradley-Terry on r.

    The two are independent, and so now and then the same: some optima hold for no other pairs.

    Args:
        logps: log π_ref ``[X, N]``.
        rewards: r ``[X, N]``.
        count: pairs in all, spread evenly over the prompts.
        rng: decides all.
    """
    prompt = np.arange(count) % len(logps)
    responses = draw(logps, prompt, rng.random((2, count)))
    return ordered(prompt, responses, rewards, rng)


def draw(logps: Array, prompt: np.ndarray, points: Array) -> np.ndarray:
    """Return the responses ``[..., M]`` that points of [0, 1) fall on, for prompts ``[M]`` and log π ``[X, N]``."""
    drawn = np.empty(points.shape, dtype=np.int64)
    for x, row in enumerate(np.exp(logps).cumsum(1)):
        drawn[..., prompt == x] = np.searchsorted(row, points[..., prompt == x] * row[-1], side="right")
    return drawn


def ordered(prompt: np.ndarray, responses: np.ndarray, rewards: Array, rng: np.random.Generator) -> Pairs:
    """Draw which of two responses ``[2, M]`` is preferred, by Bradley-Terry."""
    first, second = responses
    kept = rng.random(len(prompt)) < 1 / (1 + np.exp(rewards[prompt, second] - rewards[prompt, first]))
    return Pairs(prompt, np.where(kept, first, second), np.where(kept, second, first))


def _texts(pairs: Pairs, language: Language) -> list[dict[str, str]]:
    texts = [text_of(ids, language) for ids in all_responses(language)]
    # A response starts with the blank that parts it from its prompt.
    return [
        {"prompt": PROMPTS[x], "chosen": " " + texts[i], "rejected": " " + texts[j]}
        for x, i, j in zip(*pairs, strict=True)
    ]


def _refuse(config: WorldConfig) -> None:
    """Refuse data, rewards and models from elsewhere, and a limit that would cut responses short."""
    for name in ("model", "dataset", "heldout", "reward", "prompts", "chat_template"):
        if getattr(config, name) is not None:
            raise UserError(f"the exact world makes its own data and model and takes no {name}; drop it")
    longest = 1 + max(len(prompt.split()) for prompt in PROMPTS)  # and the start token
    for name, least in (("max_response_tokens", MAX_RESPONSE_TOKENS), ("max_prompt_tokens", longest)):
        if getattr(config, name) < least:
            raise UserError(f"{name} is {getattr(config, name)}; the exact world needs {least} or more")


def _dataset(rows: list[dict[str, str]], columns: tuple[str, ...]) -> Dataset:
    from preflab.data.splits import to_dataset

    return to_dataset(rows, columns)


def _facts(logps: Array, rewards: Array, language: Language) -> dict[str, Any]:
    """Return what is known of the optimum at β = 1, means over prompts."""
    tilted = logps + rewards
    best = np.log(np.exp(tilted).sum(1))
    start = (np.exp(logps) * rewards).sum(1)
    optimal = tilted - best[:, None]
    return {
        "responses": logps.shape[1],
        **(
            {"malformed_mass_of_reference": float(np.exp(logps)[:, language.malformed()].sum(1).mean())}
            if language.rare
            else {}
        ),
        "reward_of_reference": float(start.mean()),
        "optimal_objective": float(best.mean()),
        "optimal_kl": float((np.exp(optimal) * (optimal - logps)).sum(1).mean()),
    }
