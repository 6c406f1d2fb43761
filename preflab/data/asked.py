"""What a row says of its prompt beside the text that a model is given: it as messages, and further columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from preflab.data.cells import plain, shown
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
