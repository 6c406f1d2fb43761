"""The prompts that a person gives the function world: text or messages, with what a reward reads beside them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from preflab.data.asked import Asked, by_prompt
from preflab.data.cleaning import Cleaner
from preflab.data.columns import check_columns, parse_columns
from preflab.data.encoding import Encoder
from preflab.data.findings import BadRows
from preflab.data.formats import refuse_bad_prompts
from preflab.data.messages import USER
from preflab.data.reading import Row, RowError, iter_prompts
from preflab.data.splits import normalised
from preflab.errors import UserError
from preflab.tokens.endings import check_template
from preflab.worlds import WorldConfig

logger = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """Prompts as a model reads them.

    Attributes:
        texts: each once.
        asked: more of them, by text.
        chat: whether a chat template wrote them.
        columns: all columns of their file.
    """

    texts: list[str]
    asked: dict[str, Asked]
    chat: bool
    columns: Collection[str] = ()


def read_prompts(config: WorldConfig, encoder: Encoder, wanted: Collection[str] | None = ()) -> Prompts:
    """Read prompts from a text file (one a line) or a data file with a field ``prompt``; each once.

    Args:
        config: names the file, and says what becomes of text.
        encoder: its tokenizer has the chat template.
        wanted: columns that a reward reads.

    Raises:
        UserError: for a file that cannot be read, a row that is no prompt, and fewer than two prompts.
    """
    path = Path(str(config.prompts)).expanduser()
    return written(iter_prompts(str(config.prompts)), f"prompt file {path}", config, encoder, wanted)


def written(
    rows: Iterable[tuple[int, Row]],
    source: str,
    config: WorldConfig,
    encoder: Encoder,
    wanted: Collection[str] | None = (),
) -> Prompts:
    """Write rows as prompts; see `read_prompts`, which has the arguments and errors."""
    cleaner = cleaner_of(config, encoder, wanted)
    found, bad = list[tuple[str, Asked | None]](), BadRows()
    for number, row in rows:
        try:
            prompt, asked = cleaner.ask(number, row)
        except RowError as error:
            bad.add(number, error)
        else:
            # A blank at the end would become a token of its own and set the model off its usual track.
            found.append((prompt if asked and asked.messages else prompt.rstrip(), asked))
    seen = cleaner.seen
    refuse_bad_prompts(bad, source)
    check_columns(cleaner.columns, seen.names, seen.named, source)
    for line in seen.lines(cleaner.columns):
        logger.warning("%s: %s", source, line)
    if seen.messages and seen.texts:
        raise UserError(
            f"{source}: some prompts are messages, others text that stays text ({seen.messages} and {seen.texts}); "
            "bring all to one format (see --dialogues)"
        )
    unique: dict[str, str] = {}
    for prompt, _ in found:
        unique.setdefault(normalised(prompt), prompt)
    if len(unique) < 2:
        raise UserError(f"{source} holds {len(unique)} different prompts; a comparison needs at least two")
    chat = bool(cleaner.template and seen.messages)
    if chat:
        check_template(encoder.tokenizer)
    said = by_prompt((prompt for prompt, _ in found), (asked for _, asked in found), source)
    return Prompts(list(unique.values()), said, chat, seen.names)


def cleaner_of(config: WorldConfig, encoder: Encoder, wanted: Collection[str] | None = ()) -> Cleaner:
    """Return what writes prompts by a config."""
    fits = None if config.long_prompts == "drop" else encoder.fits
    columns = parse_columns(config.columns)
    return Cleaner(encoder.tokenizer, columns, wanted, config.dialogues, config.system_prompt, fits)


def user_opening(config: WorldConfig, encoder: Encoder) -> str | None:
    """Return what the chat template writes before a user's first words, system prompt included; None without one."""
    cleaner, probe = cleaner_of(config, encoder), "preflab opening"
    if not cleaner.template or config.dialogues == "text":
        return None
    before, said, _ = cleaner.ask(1, {"prompt": [{"role": USER, "content": probe}]})[0].partition(probe)
    return before if said and before else None
