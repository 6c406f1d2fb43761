"""The real world: any causal language model and any preference data, from the hub or from files."""

from __future__ import annotations

import gc
import logging
import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.data.asked import Asked, by_prompt
from preflab.data.columns import parse_columns
from preflab.data.dialogues import human_turns
from preflab.data.encoding import EQUAL, LONG_PROMPT, LONG_RESPONSE, TEXT, EncodedGroup, Encoder, load_tokenizer
from preflab.data.formats import Cleaned, clean_rows
from preflab.data.reading import Row, iter_rows
from preflab.data.splits import check_leak, paired, to_dataset
from preflab.errors import UserError
from preflab.progress import progress, tracked
from preflab.rewards import OwnReward, open_reward
from preflab.rewards.sums import EXAMPLES
from preflab.tokens.endings import check_template
from preflab.tokens.literals import raw_rows
from preflab.worlds import SPLITS, World, WorldConfig
from preflab.worlds.context import check_context, check_dialogues
from preflab.worlds.splitting import Source, asked_of, check_parts, encoded_parts, say_large_group, split_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

QUICK_PAIRS = 512


def build(config: WorldConfig, cache: Path) -> World:
    """Read, clean, split and describe preference data; the same config gives the same world.

    Args:
        config: names the model and data, the token limits and the splits.
        cache: unused; nothing here is slow enough to keep.

    Raises:
        UserError: where model or data cannot be used, or a split would be empty.
    """
    with _without_collector():
        return _built(config)


def _built(config: WorldConfig) -> World:
    assert config.model, "WorldConfig sees to model and data"
    # 1. See that model and options can be used.
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    check_context(config)
    reward = open_reward(config)
    check_dialogues(config, tokenizer)
    names = [name for name in (config.dataset, config.heldout) if name]
    # 2. Clean, and keep what fits the token limits, so that every method sees the same rows.
    cleaned = [_cleaned(name, tokenizer, config, reward.wanted.names if reward else ()) for name in names]
    if reward:
        for name, found in zip(names, cleaned, strict=True):
            reward.wanted.check(found.seen.names, name)
    chat = bool(tokenizer.chat_template) and _conversational(cleaned)
    if chat:
        check_template(tokenizer)
    _use_groups(cleaned, names)
    with progress("encoding"):
        sources = [_source(name, found, tokenizer, config, chat) for name, found in zip(names, cleaned, strict=True)]
    say_large_group(sources[0])
    # 3. Split by group, and see that no prompt is on both sides.
    parts = split_sources(sources, config)
    trained_on = [row for name in ("train", "gold", "singles") for row in parts[name]]
    parts["heldout"], leaked = check_leak(trained_on, parts["heldout"])
    check_parts(parts, sources, config, leaked)
    # 4. Describe.
    world = _world(config, parts, chat, encoded_parts(sources, parts), asked_of(sources, parts))
    world.facts.update(_facts(sources, world, leaked, roles=[r for r in ("dataset", "heldout") if getattr(config, r)]))
    if reward:
        world = _rewarded(world, reward, config)
    logger.info(
        "real world: %s read, %s bad, %s too long, %s leaking; train %d, gold %d, held-out %d pairs, %d unpaired",
        sum(s.read for s in sources),
        sum(s.bad.total for s in sources),
        sum(sum(s.dropped.values()) for s in sources),
        leaked,
        *(len(parts[name]) for name in ("train", "gold", "heldout", "singles")),
    )
    return world


def _cleaned(
    name: str, tokenizer: PreTrainedTokenizerBase, config: WorldConfig, wanted: Collection[str] | None
) -> Cleaned:
    """Return the clean rows of a source, with the columns that a reward wants."""
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens, chat=True)
    return clean_rows(
        tracked(iter_rows(name, config.dataset_split), f"reading {name}", "row"),
        tokenizer,
        bad_rows=config.bad_rows,
        columns=parse_columns(config.columns),
        source=name,
        wanted=wanted,
        # Whoever says that special-token strings are tokens has rows that a template wrote, wholly or in part.
        dialogues="text" if config.special_tokens == "tokens" else config.dialogues,
        system=config.system_prompt,
        fits=None if config.long_prompts == "drop" else encoder.fits,
        truncate=config.long_prompts == "truncate",
    )


def _rewarded(world: World, reward: OwnReward, config: WorldConfig) -> World:
    """Give a world a reward of one's own, tried on its first prompt; where it is functions alone, it judges too."""
    prompts = {row["prompt"] for split in (world.prompts, world.eval_prompts, world.pairs) for row in split}
    reward = reward.reading(world.asked, prompts)
    first = next(iter(world.eval_prompts))["prompt"]
    # Not on a row's own response: there it bears what a template wrote, and policies' come without.
    if not reward.repeats([first] * 2, [text for _, text in EXAMPLES]):
        logger.warning("--reward %s gives two values for the same texts: no run of it can be repeated", config.reward)
    world = replace(world, reward=reward)
    return replace(world, gold=reward, gold_key=reward.key) if config.reward_is_code else world


@contextmanager
def _without_collector() -> Iterator[None]:
    """Leave the garbage collector out: millions of new lists are no garbage, and it would look through them all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _conversational(cleaned: list[Cleaned]) -> bool:
    """Return whether the data holds messages; a mix with text could not be given the same special tokens."""
    messages, texts = (sum(getattr(found.seen, kind) for found in cleaned) for kind in ("messages", "texts"))
    if messages and texts:
        raise UserError(
            f"some rows of the data are messages, others text that stays text ({messages} and {texts}), and the chat "
            "template writes messages only; bring all rows to one format (--dialogues auto makes messages of all text "
            "that no template wrote, --dialogues text of none)"
        )
    return bool(messages)


def _use_groups(cleaned: list[Cleaned], names: list[str]) -> None:
    """Leave a group column out of account that is in one file only: the other's first turns are none of its values."""
    grouped = [found.seen.grouped > 0 for found in cleaned]
    if all(grouped) or not any(grouped):
        return
    logger.warning("the column group of %s is not used: the other file has none", names[grouped.index(True)])
    for found in cleaned:
        for row, turn in zip(found.rows, found.turns, strict=True):
            row["group"] = turn


def _source(name: str, found: Cleaned, tokenizer: PreTrainedTokenizerBase, config: WorldConfig, chat: bool) -> Source:
    rows, bad = found.rows, found.bad
    if bad.total:
        logger.warning("%s: %d bad rows dropped: %s", name, bad.total, bad.summary())
    if not found.seen.messages:
        rows = raw_rows(rows, tokenizer, config.special_tokens, name)
    limits = config.max_prompt_tokens, config.max_response_tokens
    encoder = Encoder(tokenizer, *limits, chat, truncate=config.truncated)
    shortened = found.seen.lost["turns"]
    if config.long_prompts != "drop" and not chat:
        rows, shortened = last_turns(rows, encoder)
    asked = by_prompt((row["prompt"] for row in rows), found.asked, name)
    # A response that is too long must not take its partner along: unpaired ones are paired last.
    unpaired = [row for row in rows if "response" in row]
    fitting, dropped = encoder.encode_demonstrations(unpaired)
    made, singles = paired(unpaired[g.row] for g in fitting)
    pairs = [row for row in rows if "chosen" in row] + made
    groups, too_long = encoder.encode_pairs(pairs)
    equal = too_long.pop(EQUAL, 0)
    dropped = {reason: count + too_long[reason] for reason, count in dropped.items()}
    if not found.seen.messages:
        encoder.noted.pop(TEXT, None)  # `raw_rows` has said so
    cut = {what: len(encoder.noted[what]) for what in (LONG_PROMPT, LONG_RESPONSE) if what in encoder.noted}
    if words := found.seen.lost["words"]:
        logger.warning("%s: %d %s", name, words, LONG_PROMPT)
        cut[LONG_PROMPT] = cut.get(LONG_PROMPT, 0) + words
    encoder.report(name)
    if equal:
        what = f"{name}: {equal} of {len(pairs)} pairs have {EQUAL}, to this model's tokenizer"
        if config.bad_rows == "refuse":
            raise UserError(f"{what}. Mend them, or use --bad-rows drop")
        logger.warning("%s; dropped", what)
    if sum(dropped.values()) > len(rows) / 2:
        logger.warning(
            "%s: %d of %d rows are over the token limits: %s", name, sum(dropped.values()), len(rows), dropped
        )
    groups = [groups[i] for i in _drawn(len(groups), config)]
    singles = [singles[i] for i in _drawn(len(singles), config)]
    lengths = [(len(g.response_ids[0]), len(g.response_ids[1])) for g in groups]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    share = sum(unequal) / len(unequal) if unequal else 0.5
    return Source(
        name,
        [pairs[g.row] for g in groups],
        groups,
        singles,
        len(rows) + bad.total,
        bad,
        dropped,
        equal,
        shortened,
        cut,
        share,
        found.seen.grouped > 0,
        asked,
    )


def last_turns(rows: list[Row], encoder: Encoder) -> tuple[list[Row], int]:
    """Cut dialogues over the prompt limit to their last turns that fit; return the rows, and how many were cut.

    Each begins with a human's turn. A prompt whose last one alone is too long stays as it is. Rows keep the whole
    dialogue's group, so that no other part of it is on the other side of a split.
    """

    def cut(prompt: str) -> str:
        if encoder.fits(prompt):
            return prompt
        # The later the turn, the shorter the text: the earliest that fits is found by halves.
        starts = human_turns(prompt)
        at = bisect_left(starts, True, key=lambda start: encoder.fits(prompt[start:]))
        return prompt[starts[at] :] if at < len(starts) else prompt

    found = [{**row, "prompt": cut(row["prompt"])} for row in rows]
    return found, sum(new["prompt"] != old["prompt"] for new, old in zip(found, rows, strict=True))


def _drawn(count: int, config: WorldConfig) -> Iterable[int]:
    """Return which of so many rows are used, in order: as many as the config allows, drawn by its seed."""
    limit = min(config.max_pairs or count, QUICK_PAIRS if config.quick else count)
    return sorted(random.Random(config.data_seed).sample(range(count), limit)) if limit < count else range(count)


def _world(
    config: WorldConfig,
    parts: dict[str, list[Row]],
    chat: bool,
    encoded: dict[str, list[EncodedGroup]],
    asked: dict[str, Asked],
) -> World:
    train, columns = parts["train"], ("prompt", "chosen", "rejected", "group")
    demonstrations = [{"prompt": r["prompt"], "response": r["chosen"], "group": r["group"]} for r in train]
    return World(
        name="real",
        model=str(config.model),
        demonstrations=to_dataset(demonstrations, ("prompt", "response", "group")),
        pairs=to_dataset(train, columns),
        heldout=to_dataset(parts["heldout"], columns),
        gold_pairs=to_dataset(parts["gold"], columns),  # may be empty
        prompts=to_dataset(_prompts(train), ("prompt", "group")),
        eval_prompts=to_dataset(_prompts(parts["heldout"]), ("prompt", "group")),
        gold=None,
        singles=to_dataset(parts["singles"], ("prompt", "response", "desirable", "group"))
        if parts["singles"]
        else None,
        chat=chat,
        encoded=encoded,
        asked=asked,
    )


def _prompts(rows: Iterable[Row]) -> list[Row]:
    """Return each prompt once, in order of first sight."""
    return [{"prompt": p, "group": g} for p, g in {r["prompt"]: r["group"] for r in rows}.items()]


def _facts(sources: list[Source], world: World, leaked: int, roles: list[str]) -> dict[str, Any]:
    """Return counts and fingerprints for the manifest, JSON-ready; `roles` says what each source is."""
    splits = {name: getattr(world, name) for name in world.fingerprints if name in SPLITS}
    files = {
        role: {
            "name": s.name,
            "rows read": s.read,
            "bad rows": {reason: {"count": len(n), "first rows": n[:5]} for reason, n in sorted(s.bad.reasons.items())},
            "too long": s.dropped,
            **({"chosen equal to rejected as tokens": s.equal} if s.equal else {}),
            **({"cut to their last turns": s.shortened} if s.shortened else {}),
            **({"cut at the limits": s.cut} if s.cut else {}),
            "pairs used": len(s.pairs),
            **({"without partner": len(s.singles)} if s.singles else {}),
            "longer response wins": round(s.longer_wins, 4),
        }
        for role, s in zip(roles, sources, strict=True)
    }
    return {
        "sources": files,
        "rows": {name: len(split) for name, split in splits.items()},
        "groups": {name: len(set(split.select_columns("group")[:]["group"])) for name, split in splits.items()},
        "leaking held-out rows dropped": leaked,
        "fingerprints": world.fingerprints,
    }
