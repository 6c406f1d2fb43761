"""Preference data looked at before anything is trained: what a run would read, drop, split and give the model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab.data.columns import parse_columns
from preflab.data.doubts import Doubt, doubts_of
from preflab.data.encoding import Encoder, Measured, load_tokenizer
from preflab.data.findings import meant
from preflab.data.formats import Cleaned
from preflab.data.layouts import BESIDE
from preflab.data.lengths import Bias, Lengths, bias_of, lengths_of
from preflab.data.near import near_duplicates
from preflab.data.reading import Row
from preflab.errors import UserError
from preflab.errors.terminal import one_line
from preflab.rewards import open_reward
from preflab.settings.fields import option
from preflab.worlds import WorldConfig
from preflab.worlds.context import check_context, check_dialogues
from preflab.worlds.sources import Read, read_sources, without_collector
from preflab.worlds.splitting import Source, check_parts, say_large_group, split_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = 100  # of the rows that are bad for one reason


@dataclass(frozen=True)
class CheckedConfig(WorldConfig):
    """Which preferences, and how a run would read and split them; without a model, as far as that can be told."""

    def required(self) -> tuple[str, ...]:
        """Return nothing: a model is looked up where there is one."""
        return ()


@dataclass(frozen=True)
class CheckConfig:
    """What is shown of the data."""

    rows: int = option(2, "rows shown as the model reads them", minimum=0, maximum=1000)


@dataclass(frozen=True)
class Bad:
    """Rows that are unusable for one reason: how many, the first of their numbers, the first value that was wrong."""

    reason: str
    count: int
    rows: tuple[int, ...]
    value: str | None


@dataclass(frozen=True)
class File:
    """What one file, or data set, holds.

    Attributes:
        name: as it was given.
        role: ``dataset`` or ``heldout``.
        read: rows.
        usable: those that are not bad.
        layouts: rows by the layout that they were recognised as.
        columns: those that are read.
        unread: those that are not, with what they may mean.
        messages: usable rows that are messages, or became such.
        ties: usable rows of which some responses are as good as each other.
        bad: the others.
        dropped: rows that are left out besides, by reason.
        cut: texts that are shortened, by how.
        prompts: different prompts.
        groups: sets of rows that stay in one split.
        largest_group: rows of the largest.
    """

    name: str
    role: str
    read: int
    usable: int
    layouts: Mapping[str, int]
    columns: tuple[str, ...]
    unread: Mapping[str, str]
    messages: int
    ties: int
    bad: tuple[Bad, ...]
    dropped: Mapping[str, int]
    cut: Mapping[str, int]
    prompts: int
    groups: int
    largest_group: int


@dataclass(frozen=True)
class Split:
    """What is done with one part of the rows, and how many there are."""

    name: str
    rows: int
    prompts: int
    groups: int


@dataclass(frozen=True)
class Text:
    """A text as the model reads it: special tokens in ⟦ ⟧, and how many tokens it is; None without a model."""

    of: str
    text: str
    tokens: int | None


@dataclass(frozen=True)
class DataReport:
    """What `preflab data check` says.

    Attributes:
        model: whose tokenizer counts; None: lengths are in characters.
        files: what was read.
        said: what a run would say of it, a line each.
        lengths: of prompts and responses, before any limit.
        bias: how much longer chosen responses are.
        splits: what becomes of the rows.
        leaked: held-out rows left out because their prompt is learnt from.
        doubts: what is worth a look.
        examples: the first rows.
        refused: why a run would not begin; None where it would.
    """

    model: str | None
    files: tuple[File, ...]
    said: tuple[str, ...]
    lengths: tuple[Lengths, ...]
    bias: Bias | None
    splits: tuple[Split, ...]
    leaked: int
    doubts: tuple[Doubt, ...]
    examples: tuple[tuple[Text, ...], ...]
    refused: str | None


def check_data(config: CheckedConfig, shown: int = 2) -> DataReport:
    """Read, clean, tokenise and split data by the code that a run does it by, and say what came of it.

    Args:
        config: names the data, and maybe a model.
        shown: rows to show.

    Raises:
        UserError: where the data cannot be read, or have no usable row.
    """
    measured: list[Measured] = []
    with without_collector(), _kept() as said:
        tokenizer = None
        if config.model is not None:
            tokenizer = load_tokenizer(config.model, config.trust_remote_code, config.chat_template)
            check_context(config)
            check_dialogues(config, tokenizer)
        read = read_sources(config, tokenizer, open_reward(config), measured)
        say_large_group(read.sources[0])
        parts, leaked = split_sources(read.sources, config)
        refused = None
        try:
            check_parts(parts, read.sources, config, leaked)
        except UserError as error:
            refused = str(error)
    roles = [role for role in ("dataset", "heldout") if vars(config)[role]]
    lengths, bias = _lengths(read, measured, config)
    return DataReport(
        model=config.model,
        files=tuple(_file(*parts, config) for parts in zip(roles, read.cleaned, read.sources, strict=True)),
        said=tuple(said),
        lengths=lengths,
        bias=bias,
        splits=tuple(_split(name, parts[split]) for split, name in SPLITS.items() if parts[split]),
        leaked=leaked,
        doubts=tuple(_doubts(read.cleaned, parts)),
        examples=tuple(_example(row, tokenizer, read.chat, config) for row in _first(read.sources[0], shown)),
        refused=refused,
    )


SPLITS = {
    "train": "training pairs",
    "gold": "pairs for the judge's reward model",
    "heldout": "held-out pairs",
    "singles": "responses without a partner, to training prompts",
}
"""What each part of the rows is for."""


@contextmanager
def _kept() -> Iterator[list[str]]:
    """Keep what a run would log, once each, in place of logging it."""
    kept: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()) not in kept:
                kept.append(line)

    logger = logging.getLogger("preflab")
    handler, above = Keeping(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield kept
    finally:
        logger.removeHandler(handler)
        logger.propagate = above


# ---- parts of the report -----------------------------------------------------------------------------


def _file(role: str, found: Cleaned, source: Source, config: CheckedConfig) -> File:
    seen, groups = found.seen, Counter(row["group"] for row in found.rows)
    needed = {name for layout in seen.layouts for name in (*layout.needs, *layout.also)}
    layouts: Counter[str] = Counter()
    for layout, count in seen.layouts.items():
        layouts[layout.name] += count
    equal = {"chosen equal to rejected as tokens": source.equal} if source.equal else {}
    shortened = {"cut to their last turns": source.shortened} if source.shortened else {}
    return File(
        name=source.name,
        role=role,
        read=source.read,
        usable=len(found.rows),
        layouts=dict(layouts),
        columns=tuple(_columns(found, needed, parse_columns(config.columns))),
        unread={name: meant(name) for name in seen.unread},
        messages=seen.messages,
        ties=sum("rank" in row or row.get("preference") == 0.5 for row in found.rows),
        bad=tuple(
            Bad(reason, len(numbers), tuple(numbers[:NAMED]), found.bad.values.get(reason))
            for reason, numbers in sorted(found.bad.reasons.items())
        ),
        dropped={reason: count for reason, count in {**source.dropped, **equal}.items() if count},
        cut={**source.cut, **shortened},
        prompts=len({row["prompt"] for row in found.rows}),
        groups=len(groups),
        largest_group=max(groups.values(), default=0),
    )


def _columns(found: Cleaned, needed: set[str], given: Mapping[str, str]) -> Iterator[str]:
    """Yield the columns that are read; of those of another name, as what."""
    of_column = {column.partition(".")[0]: field for field, column in given.items()}
    for name in found.seen.names:
        if name in of_column:
            yield f"{name} (as {of_column[name]})"
        elif name not in found.seen.unread and name not in given and name in {*needed, *BESIDE}:
            yield name


def _split(name: str, rows: Sequence[Row]) -> Split:
    return Split(name, len(rows), len({row["prompt"] for row in rows}), len({row["group"] for row in rows}))


def _lengths(
    read: Read, measured: Sequence[Measured], config: CheckedConfig
) -> tuple[tuple[Lengths, ...], Bias | None]:
    """Return lengths in tokens, or without a model in characters, which no limit holds for."""
    limits: tuple[int | None, int | None] = config.max_prompt_tokens, config.max_response_tokens
    if config.model is None:
        limits, measured = (None, None), [_characters(row) for found in read.cleaned for row in found.rows]
    pairs = [m.responses for m in measured if len(m.responses) == 2]
    of = {
        "prompt": [m.prompt for m in measured],
        "chosen": [chosen for chosen, _ in pairs],
        "rejected": [rejected for _, rejected in pairs],
        "single response": [m.responses[0] for m in measured if len(m.responses) == 1],
    }
    found = [lengths_of(name, own, limits[name != "prompt"]) for name, own in of.items() if own]
    return tuple(found), bias_of(of["chosen"], of["rejected"])


def _characters(row: Row) -> Measured:
    sides = ("chosen", "rejected") if "chosen" in row else ("response",)
    return Measured(len(row["prompt"]), tuple(len(row[side]) for side in sides))


def _doubts(cleaned: Sequence[Cleaned], parts: Mapping[str, Sequence[Row]]) -> Iterator[Doubt]:
    for found in cleaned:
        yield from doubts_of(found.rows, found.numbers)
    train, held = (
        list(dict.fromkeys(row["prompt"] for name in names for row in parts[name]))
        for names in (("train", "gold", "singles"), ("heldout",))
    )
    near = near_duplicates(train, held)
    if near.example:
        one, other = (one_line(prompt, 120) for prompt in near.example)
        yield Doubt(
            "near duplicates",
            f"held-out prompts that nearly stand among the training prompts: {near.held:,} of {near.looked_at[1]:,}, "
            f"such as {other!r} beside {one!r}; a column 'group' keeps such rows in one split",
        )


def _first(source: Source, count: int) -> list[Row]:
    return [*source.pairs[:count], *source.singles[: max(0, count - len(source.pairs))]]


def _example(
    row: Row, tokenizer: PreTrainedTokenizerBase | None, chat: bool, config: CheckedConfig
) -> tuple[Text, ...]:
    """Return a row as the model reads it, by the encoder of a run."""
    sides = ("chosen", "rejected") if "chosen" in row else ("response",)
    if tokenizer is None:
        return tuple(Text(name, row[name], None) for name in ("prompt", *sides))
    limits = config.max_prompt_tokens, config.max_response_tokens
    encoder = Encoder(tokenizer, *limits, chat, truncate=config.truncated)
    ids = {"prompt": encoder.prompt(row["prompt"]), **{s: encoder.response(row["prompt"], row[s]) for s in sides}}
    return tuple(Text(name, visible(tokenizer, own), len(own)) for name, own in ids.items())


def visible(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return text in which special tokens stand in ⟦ ⟧, so that a string that only looks like one does not."""
    special, parts, run = set(tokenizer.all_special_ids), list[str](), list[int]()
    for token in (*ids, None):
        if token is not None and token not in special:
            run.append(token)
            continue
        if run:
            parts.append(str(tokenizer.decode(run)))
            run = []
        if token is not None:
            parts.append(f"⟦{tokenizer.convert_ids_to_tokens(token)}⟧")
    return "".join(parts)
