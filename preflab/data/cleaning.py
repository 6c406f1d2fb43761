"""One raw row becomes a clean one, and what is met on the way is counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.answers import Parted
from preflab.data.asked import Asked, wanted_columns
from preflab.data.cells import missing, plain
from preflab.data.columns import renamed, unknown_layout
from preflab.data.dialogues import form_of, templated
from preflab.data.findings import Seen
from preflab.data.layout_parts import items
from preflab.data.layouts import BESIDE, Layout, beside, layout_of
from preflab.data.messages import CALLS, SYSTEM, Message
from preflab.data.ranking import check_texts, label_of, ordered, parted_row, strength_of
from preflab.data.reading import UNREADABLE, Row, RowError
from preflab.data.rendering import rendered
from preflab.data.splits import group_key, normalised
from preflab.disk.digests import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REWRITTEN = (
    "rows get another prompt from the chat template once an answer follows; the answers are put as they stand behind "
    "the prompt that asks for them"
)
SYSTEMS = "prompts of text have the system column in front"


class Clean(NamedTuple):
    """One clean row, its group by its prompt alone, and what it says of its prompt beside the text, if anything."""

    row: Row
    turn: str
    asked: Asked | None


class Cleaner:
    """Makes clean rows of raw ones, and keeps count of what is met."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        columns: Mapping[str, str],
        wanted: Collection[str] | None = (),
    ) -> None:
        self.tokenizer, self.columns, self.wanted, self.seen = tokenizer, columns, wanted, Seen()
        self.template = str(tokenizer.chat_template) if tokenizer else ""

    def clean(self, number: int, raw: Row) -> Clean:
        """Return one usable row, or raise `RowError`."""
        if UNREADABLE in raw:
            raise RowError(raw[UNREADABLE])
        self.seen.names.update(dict.fromkeys(map(str, raw)))
        row = renamed(raw, self.columns)
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
        prompt, responses, asked = self._written(found, extra)
        clean["prompt"] = prompt
        if len(responses) == 1:
            clean.update(response=responses[0], desirable=label_of(fields))
        else:
            clean.update(ordered(responses, ranks, strength_of(extra)))
        unread = self._count(row, layout, found, "group" in extra)
        columns = wanted_columns(raw, self.wanted, unread)
        more = asked._replace(columns=columns, row=number) if columns else asked._replace(row=number)
        return Clean(clean, turn, more if columns or more.messages else None)

    def _written(self, found: Parted, extra: Row) -> tuple[str, list[str], Asked]:
        """Return prompt and answers as text, the system column in front; and the prompt as messages, if it is any."""
        system = extra.get(SYSTEM)
        if system is not None and not isinstance(system, str):
            raise RowError("system is not text", system)
        if not isinstance(found.prompt, str):
            prompt = found.prompt if system is None else _with_system(found.prompt, system)
            tools = () if "tools" not in extra else tuple(items(extra["tools"], "tools"))
            written = rendered(prompt, found.answers, self.tokenizer, tools)
            if written.bare:
                self.seen.notes[REWRITTEN] += 1
            return written.prompt, written.answers, Asked(prompt, tools=tools)
        if system is None or found.prompt.lstrip().startswith(system.strip()):
            return found.prompt, found.answers, Asked()
        form = form_of(found.prompt)
        if form is not None and form.templated:
            raise RowError("a system column beside a prompt that a chat template wrote: put it into the prompt")
        self.seen.notes[SYSTEMS] += 1
        return f"{system.strip()}\n\n{found.prompt.lstrip()}", found.answers, Asked()

    def _count(self, row: Row, layout: Layout, found: Parted, grouped: bool) -> list[str]:
        """Count what must be said of a row, and return the columns that mean nothing in it."""
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
