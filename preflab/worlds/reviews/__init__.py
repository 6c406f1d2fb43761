"""The embedded default world: short reviews from a grammar, a small base model, a planted reward.

Nothing is downloaded. `grammar` holds the language, `reward` the planted r*, `base` the model; `build`
draws the splits and the Bradley-Terry labels and puts the world together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.worlds import World, WorldConfig
from preflab.worlds.reviews.base import QUICK, BaseSize, base_folder
from preflab.worlds.reviews.grammar import (
    DEMONSTRATION,
    GRAMMAR_VERSION,
    MAX_SENTENCES,
    SENTENCE_WORDS,
    UNALIGNED,
    write_response,
)
from preflab.worlds.reviews.grammar import prompts as all_prompts
from preflab.worlds.reviews.reward import REWARD_VERSION, reward

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MAX_RESPONSE_TOKENS", "Sizes", "build", "reward", "split_prompts"]

MAX_RESPONSE_TOKENS = 48
"""Where sampling may stop: the longest text that is written has 42 words and an end token."""

assert MAX_SENTENCES * SENTENCE_WORDS < MAX_RESPONSE_TOKENS

_SHARES = {"base": 0.20, "demonstrations": 0.20, "pairs": 0.42, "heldout": 0.09, "eval_prompts": 0.09}


class Sizes(NamedTuple):
    """Rows of each split; every row has a prompt of its own."""

    demonstrations: int = 2000
    pairs: int = 4000
    heldout: int = 1000
    eval_prompts: int = 400


QUICK_SIZES = Sizes(600, 1200, 300, 128)


def build(config: WorldConfig, cache: Path, *, size: BaseSize | None = None, sizes: Sizes | None = None) -> World:
    """Return the reviews world of ``config.data_seed``, training its base model on first use.

    The two responses of a preference pair come from the grammar's own writers, of the same crowd as the
    demonstrations', and the label is drawn from P(a preferred) = sigmoid(r*(a) − r*(b)). The on-policy
    methods' prompts are those of the preference pairs: all methods then learn from the same prompts,
    which is the fairer comparison. Prompts of all other splits are disjoint.

    Args:
        config: ``model`` may name another base model; files and ``reward`` are refused. The splits' shares
            are the world's own: ``heldout_fraction`` and ``gold_fraction`` change nothing.
        cache: folder that keeps the trained base model.
        size: other sizes of the base model (for tests).
        sizes: other numbers of rows (for tests).

    Raises:
        UserError: for options that this world cannot honour.
    """
    _refuse(config)
    sizes = sizes or (QUICK_SIZES if config.quick else Sizes())
    if config.max_pairs is not None:
        sizes = sizes._replace(pairs=min(sizes.pairs, config.max_pairs))
    split = split_prompts(config.data_seed)
    model = config.model or str(base_folder(split["base"], size or _size(config), config.data_seed, cache))
    # The prompt and the response come with a BOS and an end token on top of their words.
    kept = {k: [p for p in v if len(p.split()) < config.max_prompt_tokens] for k, v in split.items()}
    max_words = min(config.max_response_tokens, MAX_RESPONSE_TOKENS) - 1
    rows = _draw_rows(kept, sizes, config.data_seed, max_words)
    if not all(rows.values()):
        raise UserError(
            f"max_prompt_tokens is {config.max_prompt_tokens}: no prompt of the reviews world is as short; "
            "leave it at 32 or more"
        )
    datasets = {name: _dataset(part) for name, part in rows.items()}
    return World(
        name="reviews",
        model=model,
        gold_pairs=_dataset([], ("prompt", "chosen", "rejected")),
        prompts=datasets["pairs"].select_columns(["prompt"]),
        gold=reward,
        gold_key=f"reviews-{GRAMMAR_VERSION}-{REWARD_VERSION}",
        max_response_tokens=MAX_RESPONSE_TOKENS,
        facts=_facts(rows, datasets, split["base"], config.data_seed),
        **datasets,
    )


def split_prompts(seed: int) -> dict[str, list[str]]:
    """Cut the prompts into disjoint splits by a hash of seed and text; each split in hashed order."""
    found: dict[str, list[str]] = {name: [] for name in _SHARES}
    digests = {p: digest(f"{seed}\0{p}") for p in all_prompts()}
    for prompt in sorted(digests, key=lambda p: digests[p][16:]):
        found[_split_at(int(digests[prompt][:16], 16) / 2**64)].append(prompt)
    return found


def _split_at(point: float) -> str:
    """Return the split that a point of [0, 1) falls into."""
    for name, share in _SHARES.items():
        if point < share:
            return name
        point -= share
    return name


def _size(config: WorldConfig) -> BaseSize:
    return QUICK if config.quick else BaseSize()


def _refuse(config: WorldConfig) -> None:
    """Refuse data and rewards from elsewhere, and responses too short for a sentence."""
    for name in ("dataset", "heldout", "reward", "prompts", "chat_template"):
        if getattr(config, name) is not None:
            raise UserError(f"the reviews world makes its own data and takes no {name}; drop it or choose --world")
    if config.max_response_tokens <= SENTENCE_WORDS:
        raise UserError(
            f"max_response_tokens is {config.max_response_tokens}; a sentence and its end token take "
            f"{SENTENCE_WORDS + 1}, and whole reviews up to {MAX_RESPONSE_TOKENS}"
        )


def _draw_rows(
    prompts: dict[str, list[str]], sizes: Sizes, seed: int, max_words: int
) -> dict[str, list[dict[str, str]]]:
    """Draw every split's rows; each split has a generator of its own, so sizes do not mix."""
    rows: dict[str, list[dict[str, str]]] = {}
    rng = random.Random(f"reviews demonstrations {seed}")
    rows["demonstrations"] = [
        {"prompt": p, "response": write_response(p, DEMONSTRATION, rng, max_words)}
        for p in prompts["demonstrations"][: sizes.demonstrations]
    ]
    for name, count in (("pairs", sizes.pairs), ("heldout", sizes.heldout)):
        rng = random.Random(f"reviews {name} {seed}")
        rows[name] = [_draw_pair(p, rng, max_words) for p in prompts[name][:count]]
    rows["eval_prompts"] = [{"prompt": p} for p in prompts["eval_prompts"][: sizes.eval_prompts]]
    return rows


def _draw_pair(prompt: str, rng: random.Random, max_words: int) -> dict[str, str]:
    """Draw two different responses and a label by Bradley-Terry on r*."""
    first = second = _draw_response(prompt, rng, max_words)
    while second == first:
        second = _draw_response(prompt, rng, max_words)
    gap = _gap(prompt, first, second)
    chosen, rejected = (first, second) if rng.random() < 1 / (1 + math.exp(-gap)) else (second, first)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _draw_response(prompt: str, rng: random.Random, max_words: int) -> str:
    return write_response(prompt, DEMONSTRATION, rng, max_words)


def _gap(prompt: str, first: str, second: str) -> float:
    one, other = reward([prompt, prompt], [first, second])
    return one - other


def _dataset(rows: Sequence[dict[str, str]], columns: Sequence[str] = ()) -> Dataset:
    from datasets import Dataset, Features, Value

    columns = columns or tuple(rows[0])
    # Explicit types: an empty column would otherwise be of type null.
    features = Features({column: Value("string") for column in columns})
    return Dataset.from_dict({c: [row[c] for row in rows] for c in columns}, features=features)


def _facts(
    rows: dict[str, list[dict[str, str]]], datasets: dict[str, Dataset], base_prompts: list[str], seed: int
) -> dict[str, Any]:
    """Return counts, fingerprints, label noise and the head-room that r* leaves above the data."""
    from preflab.data.splits import fingerprint

    gaps = [_gap(r["prompt"], r["chosen"], r["rejected"]) for k in ("pairs", "heldout") for r in rows[k]]
    decided = [gap for gap in gaps if gap != 0]
    demonstrated = reward(*zip(*[(r["prompt"], r["response"]) for r in rows["demonstrations"]], strict=True))
    return {
        "rows": {name: len(part) for name, part in rows.items()},
        "fingerprints": {name: fingerprint(part) for name, part in datasets.items()},
        "grammar_version": GRAMMAR_VERSION,
        "reward_version": REWARD_VERSION,
        "label_agreement": fmean(gap > 0 for gap in decided),
        "label_agreement_expected": fmean(1 / (1 + math.exp(-abs(gap))) for gap in decided),
        "reward_mean": {"demonstrations": fmean(demonstrated), **_head_room(base_prompts, seed)},
        "reward_std_demonstrations": pstdev(demonstrated),
        "notes": [
            "the on-policy methods' prompts are those of the preference pairs",
            "no judge's reward model is needed: r* is known",
        ],
    }


def _head_room(prompts: list[str], seed: int) -> dict[str, float]:
    """Return mean r* of the base's corpus, and of the best of 16 demonstrations to one prompt."""
    rng = random.Random(f"reviews head-room {seed}")
    some = prompts[:500]
    best = [max(reward([p] * 16, [write_response(p, DEMONSTRATION, rng) for _ in range(16)])) for p in some[:100]]
    corpus = reward(some, [write_response(p, UNALIGNED, rng) for p in some])
    return {"base_corpus": fmean(corpus), "best_of_16": fmean(best)}
