"""Preference data of any accepted format, cleaned: text rows that mean the same whatever they came as.

`reading` gives the raw rows, `layouts` names their columns, `answers` tells prompt from answer, `rendering` writes
messages as text, `splits` splits the clean rows. Transformers is imported where it is used: checking a config does not
need it.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.data.answers import EQUAL, NO_PROMPT, Parted, parted
from preflab.data.cells import absent, missing, number, plain, shown, truth
from preflab.data.dialogues import form_of, templated
from preflab.data.layouts import (
    BESIDE,
    LOOKS_LIKE,
    TIE,
    Layout,
    beside,
    check_columns,
    columns_for,
    items,
    layout_of,
    mapping_for,
    renamed,
    unknown_layout,
)
from preflab.data.messages import CALLS, SYSTEM, Message, text_or_messages
from preflab.data.reading import UNREADABLE, Row, RowError
from preflab.data.rendering import rendered
from preflab.data.splits import group_key, normalised
from preflab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REWRITTEN = (
    "rows get another prompt from the chat template once an answer follows; the answers are put as they stand behind "
    "the prompt that asks for them"
)
SYSTEMS = "prompts of text have the system column in front"


@dataclass(frozen=True)
class BadRows:
    """Unusable rows: reason to the row numbers it was given for, and to the first value that was wrong."""

    reasons: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many rows are bad."""
        return sum(map(len, self.reasons.values()))

    def add(self, number: int, error: RowError) -> None:
        """Note why a row is bad."""
        reason = str(error)
        self.reasons.setdefault(reason, []).append(number)
        if error.value is not None:
            self.values.setdefault(reason, shown(error.value))

    def summary(self, shown: int = 5) -> str:
        """Return one readable line, with the first `shown` row numbers of each reason."""
        parts = []
        for reason, numbers in sorted(self.reasons.items()):
            first = ", ".join(map(str, numbers[:shown])) + (", …" if len(numbers) > shown else "")
            value = f", such as {self.values[reason]}" if reason in self.values else ""
            parts.append(f"{reason}{value}: {len(numbers)} (row{'s' if len(numbers) > 1 else ''} {first})")
        return "; ".join(parts) or "no bad rows"


@dataclass
class Seen:
    """What was met in the rows of one source and must be said of them.

    Attributes:
        layouts: how many rows are of each.
        names: all columns.
        named: fields of ``--columns`` for which a row had a value.
        unread: columns that hold something and were not read, with the number of rows.
        messages: rows that are messages.
        texts: rows that are text.
        bare: of these, rows that no chat template wrote.
        notes: what must be said of some rows, with their number.
        grouped: rows that name their group.
    """

    layouts: Counter[Layout] = field(default_factory=Counter)
    names: dict[str, None] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    unread: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    texts: int = 0
    bare: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    grouped: int = 0

    def lines(self, columns: Collection[str] = ()) -> list[str]:
        """Return one line for each thing that must be said; how a layout is read, if no field of `columns` says it."""
        assumed = [layout for layout in self.layouts if layout.note and not {*layout.needs} & {*columns}]
        found = [f"{layout.name}: {layout.note}" for layout in assumed]
        if len({layout.name for layout in self.layouts}) > 1:
            counts = ", ".join(f"{layout.name} ({count})" for layout, count in self.layouts.most_common())
            found.append(f"rows of several layouts, each read by its own columns: {counts}")
        if self.unread:
            found.append("columns not read: " + ", ".join(map(_meant, self.unread)))
        found += [f"{count} {note}" for note, count in self.notes.items()]
        return found


def _meant(name: str) -> str:
    """Return the name of a column that was not read, with what it may mean."""
    like = LOOKS_LIKE.get(name.lower())
    if like == "margin":
        return f"{name} (a score on a scale of its own; a difference in units of reward goes into margin)"
    if name in BESIDE:
        return f"{name} (text cannot have it)"
    return f"{name} (if it is the {like}: --columns {like}={name})" if like else name


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
        found, ranks = _parted(fields, row)
        _check_texts(found, ranks)
        turn = _hashed(group_key(found.prompt))
        group = _hashed(_group(extra["group"])) if "group" in extra else turn
        clean: Row = {"prompt": "", "group": group, **_subset(extra)}
        prompt, responses = self._written(found, extra)
        clean["prompt"] = prompt
        if len(responses) == 1:
            clean.update(response=responses[0], desirable=_label(fields))
        else:
            clean.update(_ordered(responses, ranks, _strength(extra)))
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
    return hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:16]


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


def _parted(fields: Row, row: Row) -> tuple[Parted, list[int] | None]:
    """Return prompt and answers, best first, and their ranks if they are ranked."""
    prompt = None if missing(fields.get("prompt")) else text_or_messages(fields["prompt"])
    ranks = None
    if not missing(fields.get("responses")):
        answers, ranks = _ranked(fields)
        _needed(fields, "prompt")
    elif not missing(fields.get("completion")):
        _needed(fields, "prompt")
        answers = [text_or_messages(fields["completion"])]
    else:
        answers = [text_or_messages(_needed(fields, name)) for name in ("chosen", "rejected")]
    # An empty cell of a CSV file is no prompt, but where one is needed it is an empty one.
    given = prompt if prompt is not None or fields.get("prompt") != "" else ""
    try:
        return parted(given, answers), ranks
    except RowError as error:
        option = mapping_for(map(str, row), ("prompt",)) if str(error) == NO_PROMPT else []
        if not option:
            raise
        raise RowError(f"{error} (perhaps --columns {option[0]})") from None


def _needed(fields: Row, name: str) -> Any:
    if missing(fields.get(name)) and fields.get(name) != "":
        raise RowError(f"missing field {name!r}")
    return fields[name]


def _ranked(fields: Row) -> tuple[list[Any], list[int]]:
    """Return ranked responses best first, and each one's place (0 best, equal places tie)."""
    responses = items(fields["responses"], "responses")
    if len(responses) < 2:
        raise RowError("fewer than two responses")
    if any(missing(response) for response in responses):
        raise RowError("a response is missing among responses" if "" not in responses else "empty response")
    responses = [text_or_messages(response) for response in responses]
    if absent(fields.get("rank")):
        return responses, list(range(len(responses)))
    given = items(fields["rank"], "rank")
    if len(given) != len(responses):
        raise RowError("rank does not match responses")
    ranks = [_rank(value) for value in given]
    if min(ranks) == max(ranks):
        raise RowError(TIE)
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)))}
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return [responses[i] for i in order], [places[ranks[i]] for i in order]


def _rank(value: Any) -> float:
    try:
        found = number(value)
    except ValueError:
        raise RowError("rank holds what is no number", value) from None
    if not math.isfinite(found):
        raise RowError("rank holds what is no number", value)
    return found


def _check_texts(found: Parted, ranks: Sequence[int] | None) -> None:
    prompt, answers = found.prompt, found.answers
    for text in [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]:
        _check_text(text)
    if not (prompt.strip() if isinstance(prompt, str) else any(map(_says, prompt))):
        raise RowError("empty prompt")
    texts = [answer if isinstance(answer, str) else answer["content"] for answer in answers]
    for text, answer in zip(texts, answers, strict=True):
        _check_text(text)
        if not text.strip() and not (isinstance(answer, dict) and _says(answer)):
            raise RowError("empty response")
    bare = [text.strip() if isinstance(a, str) else repr(_said(a)) for text, a in zip(texts, answers, strict=True)]
    if len(bare) > 1 and bare[0] == bare[-1]:
        raise RowError(EQUAL)
    if ranks is not None and len(set(bare)) < len(bare):
        raise RowError("the same response twice in a ranking")


def _says(message: Message) -> bool:
    """Whether a message says anything, or calls a tool."""
    return bool(message["content"].strip()) or any(name in message for name in CALLS)


def _said(message: Message) -> tuple[Any, ...]:
    return (message["content"].strip(), *(message.get(name) for name in CALLS))


def _check_text(text: Any) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is legal JSON, but no tokenizer takes it
        raise RowError("not text") from None


def _with_system(prompt: list[Message], system: str) -> list[Message]:
    """Return a prompt with a system message in front."""
    if prompt[0]["role"] != SYSTEM:
        return [{"role": SYSTEM, "content": system}, *prompt]
    if prompt[0]["content"].strip() != system.strip():
        raise RowError("the system column and the system message of the prompt differ")
    return prompt


def _label(fields: Row) -> bool:
    """Return whether an unpaired response is desirable."""
    if absent(fields.get("label")):
        raise RowError("missing field 'label'")
    try:
        return truth(fields["label"])
    except ValueError:
        raise RowError("label is neither true nor false", fields["label"]) from None


def _strength(extra: Row) -> dict[str, float]:
    """Return how sure (``preference``) and how strong (``margin``) a preference is, where the row says so."""
    found = {}
    for name, most in (("preference", 1.0), ("margin", math.inf)):
        if name not in extra:
            continue
        try:
            value = number(extra[name])
        except ValueError:
            value = math.nan
        if not (0 <= value <= most and math.isfinite(value)):
            raise RowError(f"{name} is not a number from 0 " + ("to 1" if most == 1 else "up"), extra[name])
        found[name] = value
    if found.get("preference", 1.0) < 0.5 and found.get("margin"):
        raise RowError("margin of a response that is not preferred")
    return found


def _ordered(responses: list[str], ranks: list[int] | None, strength: dict[str, float]) -> Row:
    """Return the fields of a pair or a ranking, the likelier response first."""
    if strength.get("preference", 1.0) < 0.5:  # chosen is the likelier one, whichever the data name first
        responses, strength = responses[::-1], {**strength, "preference": 1 - strength["preference"]}
        ranks = None if ranks is None else [ranks[-1] - rank for rank in ranks[::-1]]
    found: Row = {"chosen": responses[0], "rejected": responses[-1], **strength}
    if ranks is not None:
        found["responses"] = responses
        if len(set(ranks)) < len(ranks):
            found["rank"] = ranks
    return found
