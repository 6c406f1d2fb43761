"""The real world: any causal language model and any preference data, from the hub or from files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from preflab.data.asked import Asked
from preflab.data.encoding import EncodedGroup, load_tokenizer
from preflab.data.reading import Row
from preflab.data.splits import to_dataset
from preflab.rewards import OwnReward, open_reward
from preflab.rewards.sums import EXAMPLES
from preflab.worlds import SPLITS, World, WorldConfig
from preflab.worlds.context import check_context, check_dialogues
from preflab.worlds.sources import read_sources, without_collector
from preflab.worlds.splitting import Source, asked_of, check_parts, encoded_parts, say_large_group, split_sources

logger = logging.getLogger(__name__)


def build(config: WorldConfig, cache: Path) -> World:
    """Read, clean, split and describe preference data; the same config gives the same world.

    Args:
        config: names the model and data, the token limits and the splits.
        cache: unused; nothing here is slow enough to keep.

    Raises:
        UserError: where model or data cannot be used, or a split would be empty.
    """
    with without_collector():
        return _built(config)


def _built(config: WorldConfig) -> World:
    assert config.model, "WorldConfig sees to model and data"
    # 1. See that model and options can be used.
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    check_context(config)
    reward = open_reward(config)
    check_dialogues(config, tokenizer)
    # 2. Clean, and keep what fits the token limits, so that every method sees the same rows.
    _, sources, chat = read_sources(config, tokenizer, reward)
    say_large_group(sources[0])
    # 3. Split by group, and see that no prompt is on both sides.
    parts, leaked = split_sources(sources, config)
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
