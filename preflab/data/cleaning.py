"""One raw row becomes a clean one, and what is met on the way is counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.answers import Parted
from preflab.data.asked import Asked, wanted_columns
from preflab.data.cells import missing, plain
from preflab.data.columns import renamed, unknown_layout
from preflab.data.dialogues import form_of, templated
from preflab.data.findings import Seen
from preflab.data.layout_parts import items
from preflab.data.layouts import BESIDE, SYSTEM_NAMES, Layout, beside, layout_of
from preflab.data.messages import ASSISTANT, CALLS, SYSTEM, Message, text_or_messages
from preflab.data.ranking import check_texts, label_of, ordered, parted_row, strength_of
from preflab.data.reading import UNREADABLE, Row, RowError
from preflab.data.rendering import rendered
from preflab.data.shortening import last_messages
from preflab.data.splits import group_key, normalised
from preflab.data.turns import Dialogues, as_messages, template_wrote
from preflab.disk.digests import digest
from preflab.tokens.endings import end_strings
from preflab.tokens.literals import openings, own_openings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REWRITTEN = (
    "rows get another prompt from the chat template once an answer follows; the answers are put as they stand behind "
    "the prompt that asks for them"
)
SYSTEMS = "prompts of text have the system prompt in front"
OWN_SYSTEM = "dialogues have a system prompt of their own; --system is not put before these"
CONVERTED = (
    "rows are text: the chat template writes them as messages, a dialogue its turns, anything else one user's message; "
    "--dialogues text joins them as they stand"
)
FOREIGN = (
    "rows begin with the markers of another chat template than the model's, which are text to it; they stay as they are"
)
WRITTEN = "a chat template wrote the prompt; --dialogues text, or auto, joins it with its answers as they stand"
NO_PLACE = "a system prompt beside a prompt that a chat template wrote: put it into the prompt"


ANY = "any answer"
"""Stands behind prompts alone: some templates open the assistant's turn only where something is in it."""


class Clean(NamedTuple):
    """One clean row, its group by its prompt alone, and what it says of its prompt beside the text, if anything."""

    row: Row
    turn: str
    asked: Asked | None


class PartedRow(NamedTuple):
    """A row under our names, its layout, its fields in our own formats, prompt and answers, and which is better."""

    row: Row
    layout: Layout
    fields: Row
    found: Parted
    ranks: list[int] | None


class Cleaner:
    """Makes clean rows of raw ones, and keeps count of what is met; `clean_rows` says what it is given."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        columns: Mapping[str, str],
        wanted: Collection[str] | None = (),
        dialogues: Dialogues = "auto",
        system: str | None = None,
        fits: Callable[[str], bool] | None = None,
        truncate: bool = False,
    ) -> None:
        self.tokenizer, self.columns, self.wanted, self.seen = tokenizer, columns, wanted, Seen()
        self.dialogues, self.system, self.fits, self.truncate = dialogues, system, fits, truncate
        self.template, self.ends, self.openings, self.own = "", list[str](), tuple[str, ...](), tuple[str, ...]()
        if tokenizer is not None and tokenizer.chat_template:
            self.template, self.ends = str(tokenizer.chat_template), end_strings(tokenizer)
            self.openings, self.own = openings(tokenizer), own_openings(tokenizer)

    def clean(self, number: int, raw: Row) -> Clean:
        """Return one usable row, or raise `RowError`."""
        row, layout, fields, found, ranks = self.parted(raw)
        extra, found = beside(row), self._read_as(found)
        turn = _hashed(group_key(found.prompt))
        group = _hashed(_group(extra["group"])) if "group" in extra else turn
        clean: Row = {"prompt": "", "group": group, **_subset(extra)}
        prompt, responses, asked = self._written(found, extra)
        clean["prompt"] = prompt
        if len(responses) == 1:
            clean.update(response=responses[0], desirable=label_of(fields))
        else:
            clean.update(ordered(responses, ranks, strength_of(extra)))
        self.seen.layouts[layout] += 1
        self.seen.grouped += "group" in extra
        unread = self._count(row, {*layout.needs, *layout.also, *BESIDE}, found)
        return Clean(clean, turn, self._said(number, raw, asked, unread))

    def parted(self, raw: Row) -> PartedRow:
        """Return prompt and answers of a row, as far as no tokenizer is needed to tell them; or raise `RowError`."""
        row = self._named(raw)
        layout = layout_of(row)
        if layout is None:
            raise RowError(unknown_layout(row))
        fields = layout.read(row)
        found, ranks = parted_row(fields, row)
        check_texts(found, ranks)
        return PartedRow(row, layout, fields, found, ranks)

    def ask(self, number: int, raw: Row) -> tuple[str, Asked | None]:
        """Return the prompt of a row without answers, and what the row says of it beside; or raise `RowError`."""
        row, found = self.prompted(raw)
        if not isinstance(found.prompt, str):
            found = found._replace(answers=[{"role": ASSISTANT, "content": ANY}])
        found = self._read_as(found)
        prompt, _, asked = self._written(found, beside(row))
        unread = self._count(row, {"prompt", "tools", *SYSTEM_NAMES}, found)
        return prompt, self._said(number, raw, asked, unread)

    def prompted(self, raw: Row) -> tuple[Row, Parted]:
        """Return a row without answers and its prompt, as far as no tokenizer is needed; or raise `RowError`."""
        row = self._named(raw)
        if missing(row.get("prompt")):
            raise RowError("missing field 'prompt'")
        found = Parted(text_or_messages(row["prompt"]), [ANY])
        check_texts(found, None)
        return row, found

    def _named(self, raw: Row) -> Row:
        """Return a row under the names that ``--columns`` gives, having noted which it has."""
        if UNREADABLE in raw:
            raise RowError(raw[UNREADABLE])
        self.seen.names.update(dict.fromkeys(map(str, raw)))
        row = renamed(raw, self.columns)
        if self.columns:
            self.seen.named.update(field for field in self.columns if not missing(row[field]))
        return row

    def _said(self, number: int, raw: Row, asked: Asked, unread: Collection[str]) -> Asked | None:
        columns = wanted_columns(raw, self.wanted, unread)
        more = asked._replace(columns=columns, row=number) if columns else asked._replace(row=number)
        return more if columns or more.messages else None

    def _read_as(self, found: Parted) -> Parted:
        """Return text as messages, where it is to be that."""
        if not isinstance(found.prompt, str) or not self.template or self.dialogues == "text":
            return found
        if template_wrote(found.prompt, self.openings):
            if self.dialogues == "messages":
                raise RowError(WRITTEN)
            if not found.prompt.lstrip().startswith(self.own):
                self.seen.notes[FOREIGN] += 1
            return found
        self.seen.notes[CONVERTED] += 1
        return as_messages(found, self.ends)

    def _system(self, found: Parted, extra: Row) -> str | None:
        """Return the system prompt that goes in front: the row's column, else that of the options."""
        system = extra.get(SYSTEM)
        if system is not None and not isinstance(system, str):
            raise RowError("system is not text", system)
        has = not isinstance(found.prompt, str) and found.prompt[0]["role"] in (SYSTEM, "developer")
        if self.system is not None and (has or system is not None):
            self.seen.notes[OWN_SYSTEM] += 1
        return self.system if system is None and not has else system

    def _written(self, found: Parted, extra: Row) -> tuple[str, list[str], Asked]:
        """Return prompt and answers as text, the system prompt in front; and the prompt as messages, if it is any."""
        system = self._system(found, extra)
        if not isinstance(found.prompt, str):
            prompt = found.prompt if system is None else _with_system(found.prompt, system)
            tools = () if "tools" not in extra else tuple(items(extra["tools"], "tools"))
            write = partial(rendered, answers=found.answers, tokenizer=self.tokenizer, tools=tools)
            written, fits = write(prompt), self.fits
            if fits is not None and self.template and not fits(written.prompt):
                prompt, lost = last_messages(prompt, lambda part: fits(write(part).prompt), words=self.truncate)
                self.seen.lost[lost] += 1
                written = write(prompt)
            if written.bare:
                self.seen.notes[REWRITTEN] += 1
            return written.prompt, written.answers, Asked(prompt, tools=tools)
        if system is None or found.prompt.lstrip().startswith(system.strip()):
            return found.prompt, found.answers, Asked()
        form = form_of(found.prompt)
        if form is not None and form.templated:
            raise RowError(NO_PLACE)
        self.seen.notes[SYSTEMS] += 1
        return f"{system.strip()}\n\n{found.prompt.lstrip()}", found.answers, Asked()

    def _count(self, row: Row, fields: set[str], found: Parted) -> list[str]:
        """Count what must be said of a row, and return the columns that mean nothing in it."""
        seen = self.seen
        text = isinstance(found.prompt, str)
        seen.texts += text
        seen.bare += isinstance(found.prompt, str) and not templated(found.prompt)
        seen.messages += not text
        if found.notes:
            seen.notes.update(found.notes)
        read = fields - ({"tools"} if text else set())
        if self.columns:
            read |= {column.partition(".")[0] for column in self.columns.values()}
        unread = [str(name) for name, value in row.items() if name not in read and not missing(value)]
        if self.wanted is not None:
            seen.unread.update(name for name in unread if name not in self.wanted)
        if not text:
            unwritten = {name for message in (*found.prompt, *found.answers) for name in self._unwritten(message)}
            seen.unread.update(f"{name} of messages" for name in unwritten)
        return unread

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
