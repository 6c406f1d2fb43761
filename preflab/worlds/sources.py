"""Files become sources: read, cleaned, encoded within the token limits, and what was lost on the way."""

from __future__ import annotations

import gc
import logging
import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from preflab.data.asked import by_prompt
from preflab.data.columns import parse_columns
from preflab.data.dialogues import human_turns
from preflab.data.encoding import EQUAL, LONG_PROMPT, LONG_RESPONSE, TEXT, Encoder, Measured
from preflab.data.formats import Cleaned, clean_rows
from preflab.data.reading import Row, iter_rows
from preflab.data.splits import paired
from preflab.errors import UserError
from preflab.progress import progress, tracked
from preflab.rewards import OwnReward
from preflab.tokens.endings import check_template
from preflab.tokens.literals import raw_rows
from preflab.worlds import WorldConfig
from preflab.worlds.splitting import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

QUICK_PAIRS = 512


class Read(NamedTuple):
    """The files of a config.

    Attributes:
        cleaned: the rows of each, as text.
        sources: the same within the token limits.
        chat: whether a chat template wrote them.
    """

    cleaned: list[Cleaned]
    sources: list[Source]
    chat: bool


def read_sources(
    config: WorldConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    reward: OwnReward | None = None,
    measured: list[Measured] | None = None,
) -> Read:
    """Read, clean and encode the files of a config.

    Args:
        config: names them, and says what is dropped and what is cut.
        tokenizer: the model's; None: texts alone, which no limit holds for.
        reward: one of one's own, whose columns are carried along.
        measured: is given the lengths of what is encoded.

    Raises:
        UserError: where they cannot be used.
    """
    names = [name for name in (config.dataset, config.heldout) if name]
    cleaned = [_cleaned(name, tokenizer, config, reward.wanted.names if reward else ()) for name in names]
    for name, found in zip(names, cleaned, strict=True):
        if reward:
            reward.wanted.check(found.seen.names, name)
    chat = tokenizer is not None and bool(tokenizer.chat_template) and _conversational(cleaned)
    if tokenizer is not None and chat:
        check_template(tokenizer)
    _use_groups(cleaned, names)
    with progress("encoding"):
        sources = [
            _as_text(name, found, config)
            if tokenizer is None
            else _source(name, found, tokenizer, config, chat, measured)
            for name, found in zip(names, cleaned, strict=True)
        ]
    return Read(cleaned, sources, chat)


def _cleaned(
    name: str, tokenizer: PreTrainedTokenizerBase | None, config: WorldConfig, wanted: Collection[str] | None
) -> Cleaned:
    """Return the clean rows of a source, with the columns that a reward wants."""
    shortens = tokenizer is not None and config.long_prompts != "drop"
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens, chat=True) if shortens else None
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
        fits=None if encoder is None else encoder.fits,
        truncate=config.long_prompts == "truncate",
    )


@contextmanager
def without_collector() -> Iterator[None]:
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


def _say_bad(name: str, found: Cleaned) -> None:
    if found.bad.total:
        logger.warning("%s: %d bad rows dropped: %s", name, found.bad.total, found.bad.summary())


def _as_text(name: str, found: Cleaned, config: WorldConfig) -> Source:
    """Return a source without a model: nothing of it has a length in tokens."""
    _say_bad(name, found)
    rows, bad = found.rows, found.bad
    made, singles = paired(row for row in rows if "response" in row)
    pairs = [row for row in rows if "chosen" in row] + made
    pairs, singles = ([part[i] for i in _drawn(len(part), config)] for part in (pairs, singles))
    share = _longer_wins((len(row["chosen"]), len(row["rejected"])) for row in pairs)
    read, grouped = len(rows) + bad.total, found.seen.grouped > 0
    return Source(name, pairs, [], singles, read, bad, {}, 0, 0, {}, share, grouped, {})


def _longer_wins(lengths: Iterable[tuple[int, int]]) -> float:
    """Return in which share of the pairs, (chosen, rejected), that differ in length the longer response is chosen."""
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    return sum(unequal) / len(unequal) if unequal else 0.5


def _source(
    name: str,
    found: Cleaned,
    tokenizer: PreTrainedTokenizerBase,
    config: WorldConfig,
    chat: bool,
    measured: list[Measured] | None,
) -> Source:
    rows, bad = found.rows, found.bad
    _say_bad(name, found)
    if not found.seen.messages:
        rows = raw_rows(rows, tokenizer, config.special_tokens, name)
    limits = config.max_prompt_tokens, config.max_response_tokens
    encoder = Encoder(tokenizer, *limits, chat, truncate=config.truncated, measured=measured)
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
    if measured is not None and made:
        del measured[-len(made) :]  # they were, as single responses
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
    share = _longer_wins((len(g.response_ids[0]), len(g.response_ids[1])) for g in groups)
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
