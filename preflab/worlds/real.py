"""The real world: any causal language model and any preference data, from the hub or from files."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.cleaning import BadRows, Cleaned, clean_rows
from preflab.data import check_leak, group_key, paired, split_of, to_dataset
from preflab.dialogues import human_turns
from preflab.encoding import EQUAL, Dropped, EncodedGroup, Encoder, feedback, load_tokenizer
from preflab.errors import UserError
from preflab.layouts import parse_columns
from preflab.literals import raw_rows
from preflab.reading import Row, iter_rows
from preflab.worlds import World, WorldConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

QUICK_PAIRS = 512


class Source(NamedTuple):
    """One file or hub data set, cleaned: pairs and lone responses that fit the token limits, and what was lost."""

    name: str
    pairs: list[Row]
    encoded: list[EncodedGroup]
    singles: list[Row]
    read: int
    bad: BadRows
    dropped: Dropped
    equal: int
    shortened: int
    longer_wins: float
    grouped: bool


def build(config: WorldConfig, cache: Path) -> World:
    """Read, clean, split and describe preference data; the same config gives the same world.

    Args:
        config: names the model and data, the token limits and the splits.
        cache: unused; nothing here is slow enough to keep.

    Raises:
        UserError: where model or data cannot be used, or a split would be empty.
    """
    assert config.model, "WorldConfig sees to model and data"
    # 1. See that model and options can be used.
    tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
    _check_context(config)
    names = [name for name in (config.dataset, config.heldout) if name]
    columns = parse_columns(config.columns)
    # 2. Clean, and keep what fits the token limits, so that every method sees the same rows.
    cleaned = [
        clean_rows(
            iter_rows(name, config.dataset_split), tokenizer, bad_rows=config.bad_rows, columns=columns, source=name
        )
        for name in names
    ]
    chat = bool(tokenizer.chat_template) and _conversational(cleaned)
    _use_groups(cleaned, names)
    sources = [_source(name, found, tokenizer, config, chat) for name, found in zip(names, cleaned, strict=True)]
    _say_large_group(sources[0])
    # 3. Split by group, and see that no prompt is on both sides.
    parts = _split(sources, config)
    trained_on = [row for name in ("train", "gold", "singles") for row in parts[name]]
    parts["heldout"], leaked = check_leak(trained_on, parts["heldout"])
    _check_parts(parts, sources, config, leaked)
    # 4. Describe.
    world = _world(config, parts, chat, _encoded(sources, parts))
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


def _conversational(cleaned: list[Cleaned]) -> bool:
    """Return whether the data holds messages; a mix with text could not be given the same special tokens."""
    messages, texts = (sum(getattr(found.seen, kind) for found in cleaned) for kind in ("messages", "texts"))
    if messages and texts:
        raise UserError(
            f"some rows of the data are messages, others plain text ({messages} and {texts}), and the chat template "
            "serves messages only; bring all rows to one format"
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
    equal = too_long.pop(EQUAL, 0)
    dropped = {reason: count + too_long[reason] for reason, count in dropped.items()}
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
        share,
        found.seen.grouped > 0,
    )


def last_turns(rows: list[Row], encoder: Encoder) -> tuple[list[Row], int]:
    """Cut dialogues over the prompt limit to their last turns that fit; return the rows, and how many were cut.

    Each begins with a human's turn. A prompt whose last one alone is too long stays as it is. Rows keep the whole
    dialogue's group, so that no other part of it is on the other side of a split.
    """

    def fits(text: str) -> bool:
        return len(encoder.prompt(text)) <= encoder.max_prompt_tokens

    def cut(prompt: str) -> str:
        if fits(prompt):
            return prompt
        # The later the turn, the shorter the text: the earliest that fits is found by halves.
        starts = human_turns(prompt)
        at = bisect_left(starts, True, key=lambda start: fits(prompt[start:]))
        return prompt[starts[at] :] if at < len(starts) else prompt

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
        _refuse_one_group(sources[0])
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in parts.items() if name != "singles" or rows)
        leaks = f"; {leaked} held-out rows dropped because their prompt is in training" if leaked else ""
        advice = "Give more rows, another --heldout-fraction, --gold-fraction or --data-seed, or larger token limits"
        if any(source.singles for source in sources):
            advice += (
                "; unpaired responses make a pair where a prompt has a desirable and an undesirable one: else give "
                "held-out pairs in --heldout FILE, and --gold-fraction 0"
            )
        raise UserError(f"too little data: no {' and no '.join(empty)} pairs are left ({counts}{leaks}). {advice}")


def _refuse_one_group(source: Source) -> None:
    """Say so where all rows must stay together: no other fraction or seed could part them."""
    rows = [*source.pairs, *source.singles]
    if len(rows) < 2 or len({row["group"] for row in rows}) > 1:
        return
    if source.grouped:
        why, advice = (
            "the column 'group' has one value",
            "give each dialogue a value of its own, or leave the column out",
        )
    else:
        why = f"their first human turn is the same ({group_key(rows[0]['prompt'])[:60]!r})"
        advice = "add a column 'group' with a value of its own for each dialogue"
    raise UserError(
        f"all {len(rows)} usable rows of {source.name} are one group, which no split may part: {why}; {advice}"
    )


def _say_large_group(source: Source) -> None:
    """Say so where most rows must stay together: the splits are then not of the sizes that were asked for."""
    counts = Counter(row["group"] for row in source.pairs)
    if len(counts) > 1 and counts.most_common(1)[0][1] > max(10, len(source.pairs) / 2):
        group, count = counts.most_common(1)[0]
        prompt = next(row["prompt"] for row in source.pairs if row["group"] == group)
        what = "the value of their column 'group'" if source.grouped else f"the first turn {group_key(prompt)[:60]!r}"
        logger.warning(
            "%s: %d of %d pairs share %s, so they stay in one split; a column 'group' can part them",
            source.name,
            count,
            len(source.pairs),
            what,
        )


def _encoded(sources: list[Source], parts: dict[str, list[Row]]) -> dict[str, list[EncodedGroup]]:
    """Return what `_source` encoded by the world's splits, so that no text is encoded again."""
    of_row = {id(row): group for source in sources for row, group in zip(source.pairs, source.encoded, strict=True)}
    found = {}
    for name, rows in (("pairs", parts["train"]), ("heldout", parts["heldout"]), ("gold_pairs", parts["gold"])):
        said = zip(rows, feedback(rows), strict=True)
        found[name] = [of_row[id(row)]._replace(row=i, feedback=says) for i, (row, says) in enumerate(said)]
    found["demonstrations"] = [EncodedGroup(g.prompt_ids, g.response_ids[:1], g.row) for g in found["pairs"]]
    for name, split in (("prompts", "pairs"), ("eval_prompts", "heldout")):
        rows = parts["train" if split == "pairs" else split]
        ids = {row["prompt"]: group.prompt_ids for row, group in zip(rows, found[split], strict=True)}
        found[name] = [EncodedGroup(prompt, [], i) for i, prompt in enumerate(ids.values())]
    return found


def _world(
    config: WorldConfig, parts: dict[str, list[Row]], chat: bool, encoded: dict[str, list[EncodedGroup]]
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
    )


def _prompts(rows: Iterable[Row]) -> list[Row]:
    """Return each prompt once, in order of first sight."""
    return [{"prompt": p, "group": g} for p, g in {r["prompt"]: r["group"] for r in rows}.items()]


def _facts(sources: list[Source], world: World, leaked: int, roles: list[str]) -> dict[str, Any]:
    """Return counts and fingerprints for the manifest, JSON-ready; `roles` says what each source is."""
    splits = {name: getattr(world, name) for name in world.fingerprints}
    files = {
        role: {
            "name": s.name,
            "rows read": s.read,
            "bad rows": {reason: {"count": len(n), "first rows": n[:5]} for reason, n in sorted(s.bad.reasons.items())},
            "too long": s.dropped,
            **({"chosen equal to rejected as tokens": s.equal} if s.equal else {}),
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
        "fingerprints": world.fingerprints,
    }
