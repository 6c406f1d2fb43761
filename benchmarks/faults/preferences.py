"""What cases of preference files share: the command, the plain files, damaged tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.faults import kit
from benchmarks.faults.cases import (
    Case,
    Content,
    Right,
    Row,
    files,
    said,
    table,
    words,
)
from benchmarks.faults.kit import BAD, without

RUN = words("sft.py --config kit/tiny.yaml --output out")
NUMBERS = (str(BAD[0] + 1), str(BAD[1] + 1))
"""Row numbers of the damaged rows; in CSV files, whose header is row 1, each is one more."""
NAN = float("nan")

LAYOUTS: dict[str, Callable[[], list[Row]]] = {
    "text": kit.text_rows,
    "messages": kit.message_rows,
    "implicit": kit.implicit_rows,
    "ranked": kit.ranked_rows,
    "single": kit.single_rows,
}


def case(name: str, file: str, content: Content, right: tuple[Right, ...], *options: str, chat: bool = False) -> Case:
    """Return a case that trains on one file."""
    model = "kit/chat" if chat else "kit/model"
    return Case(f"data/{name}", (*RUN, "--model", model, "--dataset", file, *options), right, files({file: content}))


GONE = object()
"""In place of a value: the field is missing."""


def plain_files() -> Iterator[Case]:
    """Yield what is right, whole and without the rows that others damage."""
    for layout, rows in LAYOUTS.items():
        for chat in (False, True) if layout == "messages" else (False,):
            name = f"plain/{layout}{'-chat' * chat}"
            yield case(name, "data.jsonl", table(rows()), said(), chat=chat)
            yield case(f"{name}-without", "data.jsonl", table(without(rows())), said(), chat=chat)


def plain(layout: str, whole: bool = True) -> str:
    """Return the name of such a case."""
    return f"data/plain/{layout}{'' if whole else '-without'}"


def damaged(rows: Sequence[Row], change: Row) -> list[Row]:
    """Return the rows, some of them changed."""
    found = [{**row, **change} if i in BAD else row for i, row in enumerate(rows)]
    return [{name: value for name, value in row.items() if value is not GONE} for row in found]
