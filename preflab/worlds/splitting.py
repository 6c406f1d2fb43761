"""Cleaned sources become splits with no prompt on two sides, and what can be said where they cannot."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

from preflab.data.asked import Asked
from preflab.data.encoding import Dropped, EncodedGroup, feedback
from preflab.data.findings import BadRows
from preflab.data.reading import Row
from preflab.data.splits import check_leak, group_key, normalised, split_of
from preflab.errors import UserError
from preflab.worlds import WorldConfig

logger = logging.getLogger(__name__)


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
    cut: dict[str, int]
    longer_wins: float
    grouped: bool
    asked: dict[str, Asked]


def split_sources(sources: list[Source], config: WorldConfig) -> tuple[dict[str, list[Row]], int]:
    """Return pairs by split, and as ``singles`` what is unpaired of training prompts.

    Held-out rows whose prompt is in training are left out; how many, is returned besides.
    """
    parts = _by_split(sources, config)
    trained_on = [row for name in ("train", "gold", "singles") for row in parts[name]]
    parts["heldout"], leaked = check_leak(trained_on, parts["heldout"])
    return parts, leaked


def _by_split(sources: list[Source], config: WorldConfig) -> dict[str, list[Row]]:
    if config.dataset is None:  # nothing to train on, only to evaluate
        return {"heldout": sources[0].pairs, "gold": [], "train": [], "singles": []}
    held = 0.0 if len(sources) > 1 else config.heldout_fraction
    gold = (1 - held) * config.gold_share
    fractions = {"heldout": held, "gold": gold, "train": 1 - held - gold}
    parts: dict[str, list[Row]] = {name: [] for name in fractions}
    for row in sources[0].pairs:
        parts[split_of(row["group"], config.data_seed, fractions)].append(row)
    if len(sources) > 1:
        parts["heldout"] = sources[1].pairs
    singles = sources[0].singles
    parts["singles"] = [row for row in singles if split_of(row["group"], config.data_seed, fractions) == "train"]
    return parts


def check_parts(parts: dict[str, list[Row]], sources: list[Source], config: WorldConfig, leaked: int) -> None:
    """See that every split that is needed has rows.

    Raises:
        UserError: with what is there, and what to do.
    """
    heldout = ["heldout"] if config.heldout or config.heldout_fraction else []
    needed = heldout + (["gold"] if config.gold_share else []) + ([] if parts["singles"] else ["train"])
    needed = needed if config.dataset else ["heldout"]
    empty = [name for name in needed if not parts[name]]
    if empty:
        _refuse_few_groups(sources[0], len(needed) - (len(sources) > 1))
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in parts.items() if name != "singles" or rows)
        leaks = f"; {leaked} held-out rows dropped because their prompt is in training" if leaked else ""
        advice = "Give more rows, another --heldout-fraction, --gold-fraction or --data-seed, or larger token limits"
        if any(source.singles for source in sources):
            advice += (
                "; unpaired responses make a pair where a prompt has a desirable and an undesirable one: else give "
                "held-out pairs in --heldout FILE, and --gold-fraction 0"
            )
        raise UserError(f"too little data: no {' and no '.join(empty)} pairs are left ({counts}{leaks}). {advice}")


def _refuse_few_groups(source: Source, splits: int) -> None:
    """Say so where fewer groups than splits are there: no other fraction or seed could help."""
    rows = [*source.pairs, *source.singles]
    groups, prompts = {row["group"] for row in rows}, {normalised(row["prompt"]) for row in rows}
    if len(groups) >= splits or len(groups) == len(rows):
        return
    one = len(groups) == 1
    count = "one group, which no split may part" if one else f"{len(groups)} groups, too few for {splits} splits"
    if len(prompts) < splits:
        why = "they have one prompt" if len(prompts) == 1 else f"they have {len(prompts)} prompts"
        advice = "give rows of other prompts, in a file of their own as --heldout if they are to be held out"
    elif source.grouped:
        why = f"the column 'group' has {'one value' if one else f'{len(groups)} values'}"
        advice = "give each dialogue a value of its own, or leave the column out"
    else:
        turns = " or ".join(sorted({repr(group_key(row["prompt"])[:60]) for row in rows}))
        why = f"their first human turn is the same ({turns})" if one else f"their first human turn is {turns}"
        advice = "add a column 'group' with a value of its own for each dialogue"
    raise UserError(f"all {len(rows)} usable rows of {source.name} are {count}: {why}; {advice}")


def say_large_group(source: Source) -> None:
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


def encoded_parts(sources: list[Source], parts: dict[str, list[Row]]) -> dict[str, list[EncodedGroup]]:
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


def asked_of(sources: list[Source], parts: dict[str, list[Row]]) -> dict[str, Asked]:
    """Return what is said of the prompts of all splits beside their text."""
    known = {prompt: said for source in reversed(sources) for prompt, said in source.asked.items()}
    prompts = dict.fromkeys(row["prompt"] for rows in parts.values() for row in rows) if known else ()
    return {prompt: known[prompt] for prompt in prompts if prompt in known}
