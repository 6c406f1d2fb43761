"""The real world: any causal language model and any preference data, from the hub or from files."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.cleaning import BadRows, is_conversational, preference_rows
from preflab.data import check_leak, fingerprint, paired, split_of, to_dataset
from preflab.encoding import EQUAL, Dropped, Encoder, load_tokenizer
from preflab.errors import UserError
from preflab.literals import raw_rows
from preflab.reading import Row, read_rows
from preflab.worlds import World, WorldConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

QUICK_PAIRS = 512
NEXT_TURN = re.compile(r"\n\s*(?=Human:)")


class Source(NamedTuple):
    """One file or hub data set, cleaned: pairs and lone responses that fit the token limits, and what was lost."""

    name: str
    pairs: list[Row]
    singles: list[Row]
    read: int
    bad: BadRows
    dropped: Dropped
    shortened: int
    longer_wins: float


def build(config: WorldConfig, cache: Path) -> World:
    """Read, clean, split and describe preference data; the same config gives the same world.

    Args:
        config: names the model and data, the token limits and the splits.
        cache: unused; nothing here is slow enough to keep.

    Raises:
        UserError: where model or data cannot be used, or a split would be empty.
    """
    assert config.model, "WorldConfig sees to model and data"
    # 1. Read everything before anything is judged: the formats of both files decide how each is read.
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    _check_context(config)
    names = [name for name in (config.dataset, config.heldout) if name]
    raw = [read_rows(name, config.dataset_split) for name in names]
    chat = bool(tokenizer.chat_template) and _conversational(raw)
    # 2. Clean, and keep what fits the token limits, so that every method sees the same rows.
    # A group column in one file only could not be compared with the other's first turns.
    use_group = all(any(row.get("group") is not None for _, row in rows) for rows in raw)
    sources = [_source(name, rows, tokenizer, config, use_group, chat) for name, rows in zip(names, raw, strict=True)]
    # 3. Split by group, and see that no prompt is on both sides.
    parts = _split(sources, config)
    trained_on = [row for name in ("train", "gold", "singles") for row in parts[name]]
    parts["heldout"], leaked = check_leak(trained_on, parts["heldout"])
    _check_parts(parts, sources, config, leaked)
    # 4. Describe.
    world = _world(config, parts, chat)
    world.facts.update(_facts(sources, world, leaked, roles=[r for r in ("dataset", "heldout") if getattr(config, r)]))
    logger.info(
        "real world: %s read, %s bad, %s too long, %s leaking; train %d, gold %d, held-out %d pairs, %d unpaired",
        sum(s.read for s in sources),
        sum(s.bad.total for s in sources),
        sum(sum(s.dropped.values()) for s in sources),
        leaked,
        *(len(parts[name]) for name in ("train", "gold", "heldout", "singles")),
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
    if not any(is_conversational(row) for _, row in raw):
        rows = raw_rows(rows, tokenizer, config.special_tokens, name)
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens, chat)
    shortened = 0
    if config.long_prompts == "last-turns" and not chat:
        rows, shortened = last_turns(rows, encoder)
    # A response that is too long must not take its partner along: unpaired ones are paired last.
    unpaired = [row for row in rows if "response" in row]
    fitting, dropped = encoder.encode_demonstrations(unpaired)
    made, singles = paired(unpaired[g.row] for g in fitting)
    pairs = [row for row in rows if "chosen" in row] + made
    groups, too_long = encoder.encode_pairs(pairs)
    dropped = {reason: dropped.get(reason, 0) + too_long.get(reason, 0) for reason in dropped | too_long}
    encoder.report(name)
    if equal := too_long.get(EQUAL):
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
    return Source(name, [pairs[g.row] for g in groups], singles, len(raw), bad, dropped, shortened, share)


def last_turns(rows: list[Row], encoder: Encoder) -> tuple[list[Row], int]:
    """Cut dialogues over the prompt limit to their last turns that fit; return the rows, and how many were cut.

    Each begins with a human's turn. A prompt whose last one alone is too long stays as it is. Rows keep the whole
    dialogue's group, so that no other part of it is on the other side of a split.
    """

    def fits(text: str) -> bool:
        return len(encoder.prompt(text)) <= encoder.max_prompt_tokens

    def cut(prompt: str) -> str:
        later = (prompt[turn.end() :] for turn in NEXT_TURN.finditer(prompt))
        return prompt if fits(prompt) else next(filter(fits, later), prompt)

    found = [{**row, "prompt": cut(row["prompt"])} for row in rows]
    return found, sum(new["prompt"] != old["prompt"] for new, old in zip(found, rows, strict=True))


def _drawn(count: int, config: WorldConfig) -> Iterable[int]:
    """Return which of so many rows are used, in order: as many as the config allows, drawn by its seed."""
    limit = min(config.max_pairs or count, QUICK_PAIRS if config.quick else count)
    return sorted(random.Random(config.data_seed).sample(range(count), limit)) if limit < count else range(count)


def _split(sources: list[Source], config: WorldConfig) -> dict[str, list[Row]]:
    """Return pairs by split, and as ``singles`` what is unpaired of training prompts."""
    if config.dataset is None:  # nothing to train on, only to evaluate
        return {"heldout": sources[0].pairs, "gold": [], "train": [], "singles": []}
    held = 0.0 if len(sources) > 1 else config.heldout_fraction
    gold = (1 - held) * config.gold_fraction
    fractions = {"heldout": held, "gold": gold, "train": 1 - held - gold}
    parts: dict[str, list[Row]] = {name: [] for name in fractions}
    for row in sources[0].pairs:
        parts[split_of(row["group"], config.data_seed, fractions)].append(row)
    if len(sources) > 1:
        parts["heldout"] = sources[1].pairs
    singles = sources[0].singles
    parts["singles"] = [row for row in singles if split_of(row["group"], config.data_seed, fractions) == "train"]
    return parts


def _check_parts(parts: dict[str, list[Row]], sources: list[Source], config: WorldConfig, leaked: int) -> None:
    needed = ["heldout"] + (["gold"] if config.gold_fraction else []) + ([] if parts["singles"] else ["train"])
    needed = needed if config.dataset else needed[:1]
    empty = [name for name in needed if not parts[name]]
    if empty:
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in parts.items() if name != "singles" or rows)
        leaks = f"; {leaked} held-out rows dropped because their prompt is in training" if leaked else ""
        advice = "Give more rows, another --heldout-fraction, --gold-fraction or --data-seed, or larger token limits"
        if any(source.singles for source in sources):
            advice += (
                "; unpaired responses make a pair where a prompt has a desirable and an undesirable one: else give "
                "held-out pairs in --heldout FILE, and --gold-fraction 0"
            )
        raise UserError(f"too little data: no {' and no '.join(empty)} pairs are left ({counts}{leaks}). {advice}")


def _world(config: WorldConfig, parts: dict[str, list[Row]], chat: bool) -> World:
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
    )


def _prompts(rows: Iterable[Row]) -> list[Row]:
    """Return each prompt once, in order of first sight."""
    return [{"prompt": p, "group": g} for p, g in {r["prompt"]: r["group"] for r in rows}.items()]


def _facts(sources: list[Source], world: World, leaked: int, roles: list[str]) -> dict[str, Any]:
    """Return counts and fingerprints for the manifest, JSON-ready; `roles` says what each source is."""
    splits = {
        name: getattr(world, name)
        for name in ("demonstrations", "pairs", "singles", "heldout", "gold_pairs", "prompts", "eval_prompts")
        if getattr(world, name) is not None
    }
    files = {
        role: {
            "name": s.name,
            "rows read": s.read,
            "bad rows": {reason: {"count": len(n), "first rows": n[:5]} for reason, n in sorted(s.bad.reasons.items())},
            "too long": s.dropped,
            **({"cut to their last turns": s.shortened} if s.shortened else {}),
            "pairs used": len(s.pairs),
            **({"without partner": len(s.singles)} if s.singles else {}),
            "longer response wins": round(s.longer_wins, 4),
        }
        for role, s in zip(roles, sources, strict=True)
    }
    return {
        "sources": files,
        "rows": {name: len(split) for name, split in splits.items()},
        "groups": {name: len(set(split["group"])) for name, split in splits.items()},
        "leaking held-out rows dropped": leaked,
        "fingerprints": {name: fingerprint(split) for name, split in splits.items()},
    }
