"""What a row says of its prompt beside the text that a model is given: it as messages, and further columns."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from preflab.data.cells import plain, shown
from preflab.data.messages import CALLS, USER
from preflab.data.reading import Row
from preflab.errors import UserError


class Asked(NamedTuple):
    """What the data say of a prompt beside its text.

    Attributes:
        messages: it as messages, each with ``role`` and ``content`` as they were written, a system prompt of the row or
            of ``--system`` first; None where the prompt is text, and stays it.
        columns: further columns of its row, by name, where a reward reads any.
        tools: what the row says may be called, for chat templates.
        row: its number in the file, as messages give it.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    columns: Mapping[str, Any] = {}
    tools: Sequence[Any] = ()
    row: int = 0


def conversation(prompt: str, messages: Any) -> str:
    """Return a prompt as a reader sees it: who says what, without a template's tokens; one user's message is its words.

    Args:
        prompt: as a model is given it; returned where there are no messages.
        messages: it as messages. Files may have anything there; what is something else counts as none.
    """
    if not (isinstance(messages, (list, tuple)) and messages and all(map(_is_message, messages))):
        return prompt
    if len(messages) == 1 and messages[0]["role"] == USER:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role'].capitalize()}: {_said(message)}" for message in messages)


def _is_message(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(found.get(name), str) for name in ("role", "content"))


def _said(message: Mapping[str, Any]) -> str:
    calls = [json.dumps(message[name], ensure_ascii=False, default=str) for name in CALLS if name in message]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def wanted_columns(row: Row, wanted: Collection[str] | None, unread: Collection[str]) -> dict[str, Any]:
    """Return the columns of a raw row that somebody wants, as Python's own values.

    Args:
        row: as it was read.
        wanted: their names; None: all that are not read as anything else.
        unread: these.
    """
    names = unread if wanted is None else wanted
    return {name: plain(row[name]) for name in names if name in row}


def by_prompt(prompts: Iterable[str], asked: Iterable[Asked | None], source: str) -> dict[str, Asked]:
    """Return what is said of each prompt, by its text as a model is given it.

    Raises:
        UserError: if two rows of one prompt have columns that differ: a reward could not tell which to read.
    """
    found: dict[str, Asked] = {}
    for prompt, said in zip(prompts, asked, strict=True):
        if said is None:
            continue
        first = found.setdefault(prompt, said)
        if first.columns != said.columns:
            names = {*first.columns, *said.columns}
            name = min(n for n in names if first.columns.get(n) != said.columns.get(n))
            raise UserError(
                f"{source}: rows {first.row} and {said.row} ask the same, and their column {name!r} differs "
                f"({shown(first.columns.get(name))} and {shown(said.columns.get(name))}); a reward reads one value for "
                "a prompt: make them equal, or drop one row"
            )
    return found
