"""The real world: any causal language model and any preference data, from the hub or from files."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data import BadRows, check_leak, fingerprint, is_conversational, preference_rows, split_of, to_dataset
from preflab.encoding import Dropped, Encoder, load_tokenizer
from preflab.errors import UserError
from preflab.reading import Row, read_rows
from preflab.worlds import World, WorldConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

QUICK_PAIRS = 512


class Source(NamedTuple):
    """One file or hub data set, cleaned: usable rows that fit the token limits, and what was lost."""

    name: str
    rows: list[Row]
    read: int
    bad: BadRows
    dropped: Dropped
    longer_wins: float


def build(config: WorldConfig, cache: Path) -> World:
    """Read, clean, split and describe preference data; the same config gives the same world.

    Args:
        config: names the model and data, the token limits and the splits.
        cache: unused; nothing here is slow enough to keep.

    Raises:
        UserError: where model or data cannot be used, or a split would be empty.
    """
    assert config.model, "WorldConfig sees to model and dataset"
    assert config.dataset
    # 1. Read everything before anything is judged: the formats of both files decide how each is read.
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    _check_context(config)
    names = [config.dataset, *([config.heldout] if config.heldout else [])]
    raw = [read_rows(name, config.dataset_split) for name in names]
    chat = bool(tokenizer.chat_template) and _conversational(raw)
    # 2. Clean, and keep what fits the token limits, so that every method sees the same rows.
    # A group column in one file only could not be compared with the other's first turns.
    use_group = all(any(row.get("group") is not None for _, row in rows) for rows in raw)
    sources = [_source(name, rows, tokenizer, config, use_group, chat) for name, rows in zip(names, raw, strict=True)]
    # 3. Split by group, and see that no prompt is on both sides.
    parts = _split(sources, config)
    parts["heldout"], leaked = check_leak([*parts["train"], *parts["gold"]], parts["heldout"])
    _check_parts(parts, config, leaked)
    # 4. Describe.
    world = _world(config, parts, chat)
    world.facts.update(_facts(sources, world, leaked))
    logger.info(
        "real world: %s read, %s bad, %s too long, %s leaking; train %d, gold %d, held-out %d pairs",
        sum(s.read for s in sources),
        sum(s.bad.total for s in sources),
        sum(sum(s.dropped.values()) for s in sources),
        leaked,
        *(len(parts[name]) for name in ("train", "gold", "heldout")),
    )
    return world


def _check_context(config: WorldConfig) -> None:
    """Refuse token limits that the model's positions cannot hold."""
    from transformers import AutoConfig

    model = str(config.model)
    try:
        path = Path(model).expanduser()
        found = AutoConfig.from_pretrained(
            str(path) if path.exists() else model, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model {config.model!r} cannot be loaded: {error}") from None
    room = getattr(found.get_text_config(), "max_position_embeddings", None)
    asked = config.max_prompt_tokens + config.max_response_tokens
    if isinstance(room, int) and asked > room:
        raise UserError(
            f"max_prompt_tokens + max_response_tokens is {asked}, but model {model!r} has {room} positions; "
            "make one smaller"
        )


def _conversational(raw: list[list[tuple[int, Row]]]) -> bool:
    """Return whether the data holds messages; a mix with text could not be given the same special tokens."""
    readable = (row for rows in raw for _, row in rows if "chosen" in row or "prompt" in row)
    kinds = {is_conversational(row) for row in readable}
    if len(kinds) > 1:
        raise UserError(
            "some rows of the data are messages, others plain text, and the chat template serves messages "
            "only; bring all rows to one format"
        )
    return True in kinds


def _source(
    name: str,
    raw: list[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase,
    config: WorldConfig,
    use_group: bool,
    chat: bool,
) -> Source:
    rows, bad = preference_rows(raw, tokenizer, bad_rows=config.bad_rows, use_group=use_group, source=name)
    if bad.total:
        logger.warning("%s: %d bad rows dropped: %s", name, bad.total, bad.summary())
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens, chat)
    groups, dropped = encoder.encode_pairs(rows)
    if sum(dropped.values()) > len(rows) / 2:
        logger.warning(
            "%s: %d of %d rows are over the token limits: %s", name, sum(dropped.values()), len(rows), dropped
        )
    limit = min(config.max_pairs or len(groups), QUICK_PAIRS if config.quick else len(groups))
    if limit < len(groups):
        chosen = random.Random(config.data_seed).sample(range(len(groups)), limit)
        groups = [groups[i] for i in sorted(chosen)]
    lengths = [(len(g.response_ids[0]), len(g.response_ids[1])) for g in groups]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    share = sum(unequal) / len(unequal) if unequal else 0.5
    return Source(name, [rows[g.row] for g in groups], len(raw), bad, dropped, share)


def _split(sources: list[Source], config: WorldConfig) -> dict[str, list[Row]]:
    held = 0.0 if len(sources) > 1 else config.heldout_fraction
    gold = (1 - held) * config.gold_fraction
    fractions = {"heldout": held, "gold": gold, "train": 1 - held - gold}
    parts: dict[str, list[Row]] = {name: [] for name in fractions}
    for row in sources[0].rows:
        parts[split_of(row["group"], config.data_seed, fractions)].append(row)
    if len(sources) > 1:
        parts["heldout"] = sources[1].rows
    return parts


def _check_parts(parts: dict[str, list[Row]], config: WorldConfig, leaked: int) -> None:
    needed = ["train", "heldout"] + (["gold"] if config.gold_fraction else [])
    empty = [name for name in needed if not parts[name]]
    if empty:
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in parts.items())
        leaks = f"; {leaked} held-out rows dropped because their prompt is in training" if leaked else ""
        raise UserError(
            f"too little data: no {' and no '.join(empty)} pairs are left ({counts}{leaks}). Give more rows, "
            "another --heldout-fraction, --gold-fraction or --data-seed, or larger token limits"
        )


def _world(config: WorldConfig, parts: dict[str, list[Row]], chat: bool) -> World:
    train, columns = parts["train"], ("prompt", "chosen", "rejected", "group")
    demonstrations = [{"prompt": r["prompt"], "response": r["chosen"], "group": r["group"]} for r in train]
    return World(
        name="real",
        model=str(config.model),
        demonstrations=to_dataset(demonstrations),
        pairs=to_dataset(train, columns),
        heldout=to_dataset(parts["heldout"], columns),
        gold_pairs=to_dataset(parts["gold"], columns),  # may be empty
        prompts=to_dataset(_prompts(train)),
        eval_prompts=to_dataset(_prompts(parts["heldout"])),
        gold=None,
        chat=chat,
    )


def _prompts(rows: Iterable[Row]) -> list[Row]:
    """Return each prompt once, in order of first sight."""
    return [{"prompt": p, "group": g} for p, g in {r["prompt"]: r["group"] for r in rows}.items()]


def _facts(sources: list[Source], world: World, leaked: int) -> dict[str, Any]:
    """Return counts and fingerprints for the manifest, JSON-ready."""
    splits = {
        name: getattr(world, name)
        for name in ("demonstrations", "pairs", "heldout", "gold_pairs", "prompts", "eval_prompts")
    }
    files = {
        role: {
            "name": s.name,
            "rows read": s.read,
            "bad rows": {reason: {"count": len(n), "first rows": n[:5]} for reason, n in sorted(s.bad.reasons.items())},
            "too long": s.dropped,
            "pairs used": len(s.rows),
            "longer response wins": round(s.longer_wins, 4),
        }
        for role, s in zip(("dataset", "heldout"), sources, strict=False)
    }
    return {
        "sources": files,
        "rows": {name: len(split) for name, split in splits.items()},
        "groups": {name: len(set(split["group"])) for name, split in splits.items()},
        "leaking held-out rows dropped": leaked,
        "fingerprints": {name: fingerprint(split) for name, split in splits.items()},
    }
