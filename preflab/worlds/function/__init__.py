"""The function world: any causal language model, and a gold reward that is a Python function.

Preferences are drawn from the model's own samples by Bradley-Terry, P(a preferred) = sigmoid(r(a) − r(b)),
as in controlled-sentiment experiments (DPO, arXiv 2305.18290, section 6). There are no demonstrations: the
model is its own reference.

Samples that hit the length limit. Responses of all methods end in the end token (see `Encoder`), and text
that broke off in the middle of a sentence must not be shown to a method as a finished answer. Stories of
some 200 tokens seldom end within a limit that a small machine can afford, so a broken-off sample is cut
after its last whole sentence, where stopping is natural, and what has no whole sentence is dropped; both
are counted in `World.facts`. The reward is read off the text as kept, so labels are true of what the
methods see. During evaluation the reward judges what the policy said, broken off or not, the same for all.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections import Counter
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.data.messages import USER
from preflab.data.reading import Row
from preflab.data.splits import fingerprint, normalised, split_of, to_dataset
from preflab.errors import UserError
from preflab.rewards import OwnReward, open_reward
from preflab.worlds import GoldReward, World, WorldConfig
from preflab.worlds.context import check_context, check_dialogues
from preflab.worlds.function.instructions import cached_instructions
from preflab.worlds.function.prompts import Prompts, read_prompts, user_opening, written
from preflab.worlds.function.samples import Drawn, Sample, cached_samples, fitting_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["build", "finished"]

logger = logging.getLogger(__name__)

SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][」』”]*")


def build(config: WorldConfig, cache: Path) -> World:
    """Sample prompts and responses from the model, label pairs with the reward, and split by prompt.

    A pure function of the config, the model and the reward, up to floating-point rounding of the
    machine; all labels are drawn anew each time, the samples are kept.

    Args:
        config: ``model`` and ``reward``; ``prompts`` may name a file, else openings are sampled, or, of a model with a
            chat template, instructions.
        cache: folder that keeps the sampled texts.

    Raises:
        UserError: where the reward, the prompts or the model cannot be used, or a split would be empty.
    """
    assert config.model, "WorldConfig sees to model and reward"
    assert config.reward
    # 1. Everything a person may have got wrong, before anything is loaded.
    _refuse(config)
    gold = _opened(config)
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    check_context(config)
    check_dialogues(config, tokenizer)
    given = _given(config, cache, tokenizer, gold)
    gold = _labelling(gold, given, config)
    limits = config.max_prompt_tokens, config.max_response_tokens
    encoder = Encoder(tokenizer, *limits, given.chat, truncate=config.truncated)
    # 2. Sample, or read what an earlier run sampled.
    counts: Counter[str] = Counter()
    prompts = fitting_prompts(given.texts, encoder, config, counts) if given.texts else None
    drawn = cached_samples(config, cache, encoder, prompts)
    # 3. Make honest texts of the samples, label them, split them.
    rows = _fitting_pairs(_guarded(_label(drawn, gold, config.data_seed, counts), encoder), encoder, counts)
    return _world(config, rows, drawn, gold, counts, given)


def _opened(config: WorldConfig) -> OwnReward:
    """Open the reward that labels.

    Raises:
        UserError: if there is none, or it reads columns where no file of prompts has any.
    """
    reward = open_reward(config)
    if reward is None:
        raise UserError("the function world labels by --reward, and 'model' is trained on its labels; add another part")
    if reward.wanted.required and config.prompts is None:
        column = min(reward.wanted.required)
        raise UserError(
            f"--reward asks for the column {column!r}, and the function world's own prompts have none: give a file of "
            "'prompt' and this column in --prompts"
        )
    return reward if reward.wanted.required else _repeating(reward, config)


def _labelling(reward: OwnReward, given: Prompts, config: WorldConfig) -> OwnReward:
    """Tell a reward what the file of prompts says of them, and try it on the first where it needs that.

    Raises:
        UserError: if the file lacks a column, or the reward gives two labels for the same texts.
    """
    reward.wanted.check(given.columns, str(config.prompts))
    told = reward.reading(given.asked, given.texts)
    return _repeating(told, config, given.texts[0]) if reward.wanted.required else told


def _repeating(reward: OwnReward, config: WorldConfig, *prompt: str) -> OwnReward:
    """See that a reward gives one label for the same texts.

    Raises:
        UserError: if it does not.
    """
    if not reward.repeats(prompt * 2, ("there was a happy dog. He had a big ball.", "")):
        raise UserError(
            f"reward {config.reward!r} gives two different values for the same texts; make it deterministic, or labels "
            "and evaluation could not be repeated"
        )
    return reward


def _given(config: WorldConfig, cache: Path, tokenizer: PreTrainedTokenizerBase, reward: OwnReward) -> Prompts:
    """Return the prompts of a file, or instructions that an instruct model writes itself; none for any other."""
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens, chat=True)
    if config.prompts:
        return read_prompts(config, encoder, reward.wanted.names)
    opening = user_opening(config, encoder)
    if opening is None:
        return Prompts([], {}, False)
    said = cached_instructions(config, cache, encoder, opening)
    logger.warning("no --prompts: %d instructions are sampled from the model itself, in its user's place", len(said))
    rows = ({"prompt": [{"role": USER, "content": text}]} for text in said)
    return written(enumerate(rows, 1), "the model's own instructions", config, encoder)


def _refuse(config: WorldConfig) -> None:
    """Refuse options that mean nothing here rather than ignore them."""
    for name in ("dataset", "heldout"):
        if getattr(config, name) is not None:
            raise UserError(f"the function world samples its own data and takes no {name}; drop it or choose --world")


def finished(sample: Sample) -> str | None:
    """Return a response that may stop where it stops, or None.

    A sample that the model ended stays whole; one that hit the length limit is cut after its last whole
    sentence, and is None where it has none.
    """
    if sample.ended:
        return sample.text.rstrip() or None
    ends = [match.end() for match in SENTENCE_END.finditer(sample.text)]
    return sample.text[: ends[-1]] if ends else None


def _fate(sample: Sample, text: str | None) -> str:
    if text is None:
        return "responses dropped: empty" if sample.ended else "responses dropped: no whole sentence"
    return "responses ended by the model" if sample.ended else "responses cut after a sentence"


def _label(drawn: Drawn, gold: GoldReward, seed: int, counts: Counter[str]) -> list[Row]:
    """Return labelled pairs; what was lost, and why, goes into `counts`."""
    pairs: list[tuple[str, str, str, random.Random]] = []
    for prompt, samples in drawn:
        texts = [finished(sample) for sample in samples]
        for sample, text in zip(samples, texts, strict=True):
            counts[_fate(sample, text)] += 1
        for n, (first, second) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
            if first is None or second is None:
                counts["pairs dropped: a response is missing"] += 1
            elif normalised(first) == normalised(second):
                counts["pairs dropped: identical"] += 1
            else:
                pairs.append((prompt, first, second, random.Random(f"label {seed} {n} {prompt}")))
    # All in one call: a reward may work on many at a time.
    asked = [(prompt, text) for prompt, *both, _ in pairs for text in both]
    rewards = gold(*zip(*asked, strict=True)) if asked else []
    return [_pair(*pair, *both) for pair, *both in zip(pairs, rewards[::2], rewards[1::2], strict=True)]


def _guarded(rows: list[Row], encoder: Encoder) -> list[Row]:
    """Return pairs whose responses are the contents of messages where a chat template writes those."""
    guard = encoder.literals.guard
    return [{**r, **{name: guard(r[name]) for name in ("chosen", "rejected")}} for r in rows] if encoder.chat else rows


def _fitting_pairs(rows: list[Row], encoder: Encoder, counts: Counter[str]) -> list[Row]:
    """Drop the few pairs that are over the token limit: text comes back in other tokens than were sampled."""
    if not rows:
        return rows
    groups, dropped = encoder.encode_pairs(rows)
    counts["pairs dropped: too long as tokenised anew"] = sum(dropped.values())
    return [rows[group.row] for group in groups]


def _pair(prompt: str, first: str, second: str, rng: random.Random, one: float, other: float) -> Row:
    """Draw which response is preferred, the first with the sigmoid of how much better its reward is."""
    if rng.random() >= _sigmoid(one - other):
        first, second, one, other = second, first, other, one
    # With the rewards among the columns, a changed reward changes the fingerprint of the data and so the
    # key of every stage, even if no label changed.
    return {"prompt": prompt, "chosen": first, "rejected": second, "chosen_reward": one, "rejected_reward": other}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _world(
    config: WorldConfig, rows: list[Row], drawn: Drawn, gold: OwnReward, counts: Counter[str], given: Prompts
) -> World:
    if not rows:
        raise UserError(f"no pair is left of the model's samples ({_listed(counts)}); raise --max-response-tokens")
    shares = {"heldout": config.heldout_fraction, "train": 1 - config.heldout_fraction}
    # Hashed as it counts for "the same prompt", so that two writings of one prompt cannot be torn apart.
    where = {p: split_of(normalised(p), config.data_seed, shares) for p, _ in drawn}
    parts = {name: [row for row in rows if where[row["prompt"]] == name] for name in shares}
    empty = [name for name, part in parts.items() if shares[name] and not part]
    if empty:
        raise UserError(
            f"too few pairs: none in {' and '.join(empty)} ({len(rows)} in all; {_listed(counts)}). Give more prompts, "
            "or another --heldout-fraction or --data-seed"
        )
    columns, nothing = ("prompt", "chosen", "rejected"), ("prompt", "response")
    world = World(
        name="function",
        model=str(config.model),
        demonstrations=to_dataset([], nothing),
        pairs=to_dataset(parts["train"], columns),
        heldout=to_dataset(parts["heldout"], columns),
        gold_pairs=to_dataset([], columns),
        # Only prompts of pairs: on-policy and offline methods then learn from the same ones.
        prompts=to_dataset(_prompts(parts["train"]), ("prompt",)),
        eval_prompts=to_dataset(_prompts(parts["heldout"]), ("prompt",)),
        gold=gold,
        gold_key=gold.key,
        chat=given.chat,
        asked={row["prompt"]: given.asked[row["prompt"]] for row in rows if row["prompt"] in given.asked},
        reward=gold,
    )
    world.facts.update(_facts(config, world, rows, drawn, counts))
    if world.facts["equal_rewards"] == len(rows):
        logger.warning("reward %s gives both responses of every pair the same value; labels are chance", config.reward)
    logger.info("function world: %d pairs; %s", len(rows), _listed(counts))
    return world


def _prompts(rows: list[Row]) -> list[Row]:
    return [{"prompt": prompt} for prompt in dict.fromkeys(row["prompt"] for row in rows)]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in counts.items() if n)


def _facts(config: WorldConfig, world: World, rows: list[Row], drawn: Drawn, counts: Counter[str]) -> dict[str, Any]:
    """Return counts, fingerprints, label noise and the spread of the reward, JSON-ready."""
    assert world.gold is not None
    splits = ("pairs", "heldout", "prompts", "eval_prompts")
    gaps = [row["chosen_reward"] - row["rejected_reward"] for row in rows]
    decided = [gap for gap in gaps if gap != 0]
    kept = [row[name] for row in rows for name in ("chosen_reward", "rejected_reward")]
    raw = world.gold(*zip(*((p, s.text) for p, samples in drawn for s in samples), strict=True))
    own = (
        "instructions that the model wrote in its user's place" if world.chat else "openings of the model's own samples"
    )
    return {
        "reward": {"function": config.reward, "key": world.gold_key},
        "prompts": {"from": config.prompts or own, "count": len(drawn)},
        "counts": dict(counts),
        "rows": {name: len(getattr(world, name)) for name in splits},
        "fingerprints": {name: fingerprint(getattr(world, name)) for name in splits},
        "label_agreement": fmean(gap > 0 for gap in decided) if decided else None,
        "label_agreement_expected": fmean(_sigmoid(abs(gap)) for gap in decided) if decided else None,
        "equal_rewards": len(gaps) - len(decided),
        "reward_mean": {"samples": fmean(raw), "pairs": fmean(kept)},
        "reward_std": {"samples": pstdev(raw), "pairs": pstdev(kept)},
        "notes": [
            "no demonstrations: the model is its own reference",
            "samples that hit the length limit are cut after their last whole sentence, or dropped without one",
            "the on-policy methods' prompts are those of the training pairs",
        ],
    }
