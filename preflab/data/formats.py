"""Preference data of any accepted format, cleaned: text rows that mean the same whatever they came as.

`reading` gives the raw rows, `layouts` and `columns` name their columns, `answers` tells prompt from answer, `ranking`
says which answer is better, `rendering` writes messages as text, `splits` splits the clean rows. Transformers is
imported where it is used: checking a config does not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from preflab.data.answers import NO_PROMPT
from preflab.data.asked import Asked
from preflab.data.cleaning import Cleaner
from preflab.data.columns import check_columns, columns_for
from preflab.data.findings import BadRows, Seen
from preflab.data.reading import Row, RowError
from preflab.data.turns import Dialogues
from preflab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REWRITTEN = (
    "rows get another prompt from the chat template once an answer follows; the answers are put as they stand behind "
    "the prompt that asks for them"
)
SYSTEMS = "prompts of text have the system column in front"


class Cleaned(NamedTuple):
    """Clean rows of one source, and what belongs to them.

    Attributes:
        rows: see `clean_rows`.
        bad: the others.
        seen: what must be said.
        turns: of each row, its group without the group column.
        asked: of each row, what it says of its prompt beside the text; None where that is nothing.
        numbers: of each row, its number in the file.
    """

    rows: list[Row]
    bad: BadRows
    seen: Seen
    turns: list[str]
    asked: list[Asked | None]
    numbers: list[int]


def preference_rows(
    rows: Iterable[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bad_rows: Literal["drop", "refuse"] = "drop",
    use_group: bool = True,
    columns: Mapping[str, str] | None = None,
    source: str = "the data",
    dialogues: Dialogues = "auto",
) -> tuple[list[Row], BadRows]:
    """Bring preference data of any accepted format to text rows; see `clean_rows`.

    Args:
        rows: numbered raw rows, as `read_rows` gives them.
        tokenizer: writes messages as text; None: always Human/Assistant text.
        bad_rows: drop and count unusable rows, or refuse the data.
        use_group: whether a ``group`` column decides which prompts belong together.
        columns: our fields to the data's columns that hold them.
        source: what to call the data in messages.
        dialogues: as `clean_rows` takes it.

    Returns:
        The clean rows and the bad ones.

    Raises:
        UserError: if no usable row is left, or for any bad row with ``bad_rows="refuse"``.
    """
    found = clean_rows(rows, tokenizer, bad_rows=bad_rows, columns=columns, source=source, dialogues=dialogues)
    if not use_group:
        for row, turn in zip(found.rows, found.turns, strict=True):
            row["group"] = turn
    return found.rows, found.bad


def clean_rows(
    rows: Iterable[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bad_rows: Literal["drop", "refuse"] = "drop",
    columns: Mapping[str, str] | None = None,
    source: str = "the data",
    wanted: Collection[str] | None = (),
    dialogues: Dialogues = "auto",
    system: str | None = None,
    fits: Callable[[str], bool] | None = None,
    truncate: bool = False,
) -> Cleaned:
    """Bring preference data of any accepted format to text rows, and say what was assumed about them.

    Accepted are ``prompt, chosen, rejected``; ``chosen, rejected`` as whole dialogues; ``prompt, responses`` (best
    first, or ordered by ``rank``, 0 best); unpaired, ``prompt, completion, label``; and the layouts of
    `preflab.data.layouts`: each as text or as messages. Messages are written with the tokenizer's chat template, or as
    Human/Assistant text where it has none.

    Args:
        rows: numbered raw rows, as `read_rows` gives them.
        tokenizer: writes messages as text; None: always Human/Assistant text.
        bad_rows: drop and count unusable rows, or refuse the data.
        columns: our fields to the data's columns that hold them.
        source: what to call the data in messages.
        wanted: further columns to carry along; None: all that mean nothing else.
        dialogues: what text becomes where there is a chat template: messages, but for what a template wrote (auto);
            messages, what a template wrote being bad rows; or itself.
        system: a system prompt for dialogues that have none.
        fits: whether a prompt that the chat template wrote is short enough; longer ones keep the last turns that fit.
        truncate: whether a last turn that alone is too long loses its beginning.

    Returns:
        Rows with ``prompt``, ``chosen``, ``rejected`` (or, unpaired, ``prompt``, ``response``, ``desirable``),
        ``group`` (hash of what must not be split) and, where the data has them, ``subset`` (else its ``source``),
        ``responses`` (texts, best first), ``rank`` (where some of them tie: 0 best, equal numbers tie), ``preference``
        (at least 1/2: chosen is the likelier one) and ``margin``; the bad rows; and what was seen.

    Raises:
        UserError: if no usable row is left, for any bad row with ``bad_rows="refuse"``, or for a column that
            `columns` names and no row has.
    """
    cleaner = Cleaner(tokenizer, columns or {}, wanted, dialogues, system, fits, truncate)
    found = Cleaned([], BadRows(), cleaner.seen, [], [], [])
    for number_, row in rows:
        try:
            clean = cleaner.clean(number_, row)
        except RowError as error:
            found.bad.add(number_, error)
        else:
            found.rows.append(clean.row)
            found.turns.append(clean.turn)
            found.asked.append(clean.asked)
            found.numbers.append(number_)
    if found.rows or found.bad.total:
        check_columns(cleaner.columns, cleaner.seen.names, cleaner.seen.named, source)
    _check(found, bad_rows, source)
    for line in found.seen.lines(cleaner.columns):
        logger.warning("%s: %s", source, line)
    template = bool(tokenizer and tokenizer.chat_template)
    if found.seen.messages and tokenizer is not None and not template:
        logger.warning("no chat template: messages are written as Human/Assistant text (see --chat-template)")
    if found.seen.bare and template:
        logger.warning(
            "%s: %d rows are text, which is joined as it stands: the chat template writes messages alone",
            source,
            found.seen.bare,
        )
    return found


def check_usable(rows: Iterable[tuple[int, Row]], columns: Mapping[str, str], source: str) -> None:
    """See, without a tokenizer, that some row can be used and every column is there; read no further than that takes.

    Args:
        rows: numbered raw rows, as `iter_rows` gives them.
        columns: our fields to the data's columns that hold them.
        source: what to call the data in messages.

    Raises:
        UserError: as `clean_rows` does where no row is usable, or for a column that no row has.
    """
    cleaner = Cleaner(None, columns)
    found = Cleaned([], BadRows(), cleaner.seen, [], [], [])
    for number, row in rows:
        try:
            found.rows.append(cleaner.parted(row).row)
        except RowError as error:
            found.bad.add(number, error)
        if found.rows and all(name in found.seen.names or field in found.seen.named for field, name in columns.items()):
            return
    if found.rows or found.bad.total:
        check_columns(columns, found.seen.names, found.seen.named, source)
    _check(found, "drop", source)


def check_prompts(rows: Iterable[tuple[int, Row]], columns: Mapping[str, str], source: str) -> None:
    """See, without a tokenizer, that rows are prompts and every column is there.

    Raises:
        UserError: if one is not.
    """
    cleaner, bad = Cleaner(None, columns), BadRows()
    for number, row in rows:
        try:
            cleaner.prompted(row)
        except RowError as error:
            bad.add(number, error)
    refuse_bad_prompts(bad, source)
    check_columns(columns, cleaner.seen.names, cleaner.seen.named, source)


def refuse_bad_prompts(bad: BadRows, source: str) -> None:
    """Refuse prompts of which some are none: a comparison must not leave any out unseen.

    Raises:
        UserError: with the rows.
    """
    if bad.total:
        raise UserError(f"{source} has rows that are no prompt: {bad.summary()}")


def _check(found: Cleaned, bad_rows: str, source: str) -> None:
    if not found.rows and not found.bad.total:
        raise UserError(f"{source} has no usable row: it is empty")
    if not found.rows:
        raise UserError(f"{source} has no usable row: {found.bad.summary()}. {_needs(found)}")
    if found.bad.total and bad_rows == "refuse":
        raise UserError(f"{source} has bad rows: {found.bad.summary()}. Mend them, or use --bad-rows drop")


def _needs(found: Cleaned) -> str:
    """Return what to do where no row is usable."""
    if not any(reason.startswith(("missing field", NO_PROMPT)) for reason in found.bad.reasons):
        return "Mend the data"
    names = list(found.seen.names)
    option = columns_for(names)
    return (
        "Preference data needs 'chosen' and 'rejected' (with 'prompt', or as whole dialogues), or 'prompt' and ranked "
        "'responses', or 'prompt', 'completion' and 'label', under these names or those that --columns gives; it has "
        + (", ".join(names[:20]) or "no columns")
        + (f". Perhaps {option}" if option else "")
        + ". Prompts without responses go with a reward of your own, as --prompts FILE in place of --dataset"
    )
