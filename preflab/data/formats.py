"""Preference data of any accepted format, cleaned: text rows that mean the same whatever they came as.

`reading` gives the raw rows, `layouts` and `columns` name their columns, `answers` tells prompt from answer, `ranking`
says which answer is better, `rendering` writes messages as text, `splits` splits the clean rows. Transformers is
imported where it is used: checking a config does not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.data.answers import NO_PROMPT, Parted
from preflab.data.cells import missing, plain
from preflab.data.columns import check_columns, columns_for, renamed, unknown_layout
from preflab.data.dialogues import form_of, templated
from preflab.data.findings import BadRows, Seen
from preflab.data.layout_parts import items
from preflab.data.layouts import BESIDE, Layout, beside, layout_of
from preflab.data.messages import CALLS, SYSTEM, Message
from preflab.data.ranking import check_texts, label_of, ordered, parted_row, strength_of
from preflab.data.reading import UNREADABLE, Row, RowError
from preflab.data.rendering import rendered
from preflab.data.splits import group_key, normalised
from preflab.disk.digests import digest
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
    """Clean rows of one source, the bad ones, what was seen, and each clean row's group without the group column."""

    rows: list[Row]
    bad: BadRows
    seen: Seen
    turns: list[str]


def preference_rows(
    rows: Iterable[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bad_rows: Literal["drop", "refuse"] = "drop",
    use_group: bool = True,
    columns: Mapping[str, str] | None = None,
    source: str = "the data",
) -> tuple[list[Row], BadRows]:
    """Bring preference data of any accepted format to text rows; see `clean_rows`.

    Args:
        rows: numbered raw rows, as `read_rows` gives them.
        tokenizer: writes messages as text; None: always Human/Assistant text.
        bad_rows: drop and count unusable rows, or refuse the data.
        use_group: whether a ``group`` column decides which prompts belong together.
        columns: our fields to the data's columns that hold them.
        source: what to call the data in messages.

    Returns:
        The clean rows and the bad ones.

    Raises:
        UserError: if no usable row is left, or for any bad row with ``bad_rows="refuse"``.
    """
    found = clean_rows(rows, tokenizer, bad_rows=bad_rows, columns=columns, source=source)
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
) -> Cleaned:
    """Bring preference data of any accepted format to text rows, and say what was assumed about them.

    Accepted are ``prompt, chosen, rejected``; ``chosen, rejected`` as whole dialogues; ``prompt, responses`` (best
    first, or ordered by ``rank``, 0 best); unpaired, ``prompt, completion, label``; and the layouts of
    `preflab.data.layouts`: each as text or as messages. Messages are written with the tokenizer's chat template, or as
    Human/Assistant text where it has none.

    Returns:
        Rows with ``prompt``, ``chosen``, ``rejected`` (or, unpaired, ``prompt``, ``response``, ``desirable``),
        ``group`` (hash of what must not be split) and, where the data has them, ``subset`` (else its ``source``),
        ``responses`` (texts, best first), ``rank`` (where some of them tie: 0 best, equal numbers tie), ``preference``
        (at least 1/2: chosen is the likelier one) and ``margin``; the bad rows; and what was seen.

    Raises:
        UserError: if no usable row is left, for any bad row with ``bad_rows="refuse"``, or for a column that
            `columns` names and no row has.
    """
    cleaner = _Cleaner(tokenizer, columns or {})
    found = Cleaned([], BadRows(), cleaner.seen, [])
    for number_, row in rows:
        try:
            clean, turn = cleaner.clean(row)
        except RowError as error:
            found.bad.add(number_, error)
        else:
            found.rows.append(clean)
            found.turns.append(turn)
    if found.rows or found.bad.total:
        check_columns(cleaner.columns, cleaner.seen.names, cleaner.seen.named, source)
    _check(found, bad_rows, source)
    for line in found.seen.lines(cleaner.columns):
        logger.warning("%s: %s", source, line)
    template = bool(tokenizer and tokenizer.chat_template)
    if found.seen.messages and not template:
        logger.warning("no chat template: messages are written as Human/Assistant text (see --chat-template)")
    if found.seen.bare and template:
        logger.warning(
            "%s: %d rows are text, which is joined as it stands: the chat template is for messages",
            source,
            found.seen.bare,
        )
    return found


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
    )


class _Cleaner:
    """Makes clean rows of raw ones, and keeps count of what is met."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, columns: Mapping[str, str]) -> None:
        self.tokenizer, self.columns, self.seen = tokenizer, columns, Seen()
        self.template = str(tokenizer.chat_template) if tokenizer else ""

    def clean(self, row: Row) -> tuple[Row, str]:
        """Return one usable row and its group by its prompt alone, or raise `RowError`."""
        if UNREADABLE in row:
            raise RowError(row[UNREADABLE])
        self.seen.names.update(dict.fromkeys(map(str, row)))
        row = renamed(row, self.columns)
        if self.columns:
            self.seen.named.update(field for field in self.columns if not missing(row[field]))
        layout = layout_of(row)
        if layout is None:
            raise RowError(unknown_layout(row))
        fields, extra = layout.read(row), beside(row)
        found, ranks = parted_row(fields, row)
        check_texts(found, ranks)
        turn = _hashed(group_key(found.prompt))
        group = _hashed(_group(extra["group"])) if "group" in extra else turn
        clean: Row = {"prompt": "", "group": group, **_subset(extra)}
        prompt, responses = self._written(found, extra)
        clean["prompt"] = prompt
        if len(responses) == 1:
            clean.update(response=responses[0], desirable=label_of(fields))
        else:
            clean.update(ordered(responses, ranks, strength_of(extra)))
        self._count(row, layout, found, "group" in extra)
        return clean, turn

    def _written(self, found: Parted, extra: Row) -> tuple[str, list[str]]:
        """Return prompt and answers as text, the system column in front."""
        system = extra.get(SYSTEM)
        if system is not None and not isinstance(system, str):
            raise RowError("system is not text", system)
        if not isinstance(found.prompt, str):
            prompt = found.prompt if system is None else _with_system(found.prompt, system)
            tools = None if "tools" not in extra else items(extra["tools"], "tools")
            written = rendered(prompt, found.answers, self.tokenizer, tools)
            if written.bare:
                self.seen.notes[REWRITTEN] += 1
            return written.prompt, written.answers
        if system is None or found.prompt.lstrip().startswith(system.strip()):
            return found.prompt, found.answers
        form = form_of(found.prompt)
        if form is not None and form.templated:
            raise RowError("a system column beside a prompt that a chat template wrote: put it into the prompt")
        self.seen.notes[SYSTEMS] += 1
        return f"{system.strip()}\n\n{found.prompt.lstrip()}", found.answers

    def _count(self, row: Row, layout: Layout, found: Parted, grouped: bool) -> None:
        seen = self.seen
        seen.layouts[layout] += 1
        text = isinstance(found.prompt, str)
        seen.texts += text
        seen.bare += isinstance(found.prompt, str) and not templated(found.prompt)
        seen.messages += not text
        if found.notes:
            seen.notes.update(found.notes)
        seen.grouped += grouped
        read = {*layout.needs, *layout.also, *BESIDE} - ({"tools"} if text else set())
        if self.columns:
            read |= {column.partition(".")[0] for column in self.columns.values()}
        for name, value in row.items():
            if name not in read and not missing(value):
                seen.unread[str(name)] += 1
        if not text:
            unwritten = {name for message in (*found.prompt, *found.answers) for name in self._unwritten(message)}
            seen.unread.update(f"{name} of messages" for name in unwritten)

    def _unwritten(self, message: Message) -> list[str]:
        """Return what a message has besides that no chat template could have written."""
        written = ("role", "content", *CALLS)  # calls are seen to
        return [name for name in message if name not in written and name not in self.template]


def _hashed(key: str) -> str:
    return digest(key, 16)


def _group(value: Any) -> str:
    value = plain(value)
    if isinstance(value, float) and value.is_integer():  # a column of integers that once had a hole
        value = int(value)
    if isinstance(value, (list, dict)):
        raise RowError("group is neither text nor a number", value)
    return normalised(str(value))


def _subset(extra: Row) -> dict[str, str]:
    named = [extra[name] for name in ("subset", "source") if name in extra]
    return {"subset": str(plain(named[0])).encode(errors="backslashreplace").decode()} if named else {}


def _with_system(prompt: list[Message], system: str) -> list[Message]:
    """Return a prompt with a system message in front."""
    if prompt[0]["role"] != SYSTEM:
        return [{"role": SYSTEM, "content": system}, *prompt]
    if prompt[0]["content"].strip() != system.strip():
        raise RowError("the system column and the system message of the prompt differ")
    return prompt
