"""A model card as text: YAML fields for the hub, and Markdown in which foreign text stays text. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from preflab.errors.terminal import one_line

LONGEST = 300
"""Characters of any one value: a card is for people to read."""


class Section(NamedTuple):
    """A heading and the blocks under it, which are ready Markdown."""

    heading: str
    blocks: Sequence[str]


class Card(NamedTuple):
    """What a model card says.

    Attributes:
        title: its heading, plain text.
        fields: what the hub reads.
        blocks: ready Markdown under the title.
        sections: the rest, in order.
    """

    title: str
    fields: Mapping[str, Any]
    blocks: Sequence[str]
    sections: Sequence[Section]

    def text(self) -> str:
        """Return the card as ``README.md`` holds it."""
        from huggingface_hub import ModelCardData

        front = ModelCardData(**{name: _harmless(value) for name, value in self.fields.items()}).to_yaml()
        parts = [f"---\n{front}\n---", f"# {code(self.title)}", *self.blocks]
        for section in self.sections:
            parts += [f"## {section.heading}", *section.blocks]
        return "\n\n".join(part for part in parts if part) + "\n"


def code(value: object) -> str:
    """Return any text as a code span, in which Markdown and HTML mean nothing."""
    text = one_line(value, LONGEST)
    if not text:
        return "–"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    inner = f" {text} " if "`" in text else text
    return f"{fence}{inner}{fence}"


def block(text: str, language: str = "") -> str:
    """Return lines as a code block that nothing in them ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = "\n".join(one_line(line, LONGEST) if line.strip() else "" for line in text.split("\n"))
    return f"{fence}{language}\n{lines}\n{fence}"


def source(text: str, language: str) -> str:
    """Return a program's lines, our own, as they are."""
    return f"```{language}\n{text}\n```"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ready Markdown; nothing where there are no rows."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(headings), "|" + "---|" * len(headings), *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value, LONGEST)
    return [_harmless(item) for item in value] if isinstance(value, (list, tuple)) else value
