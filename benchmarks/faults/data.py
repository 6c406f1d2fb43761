"""Preference files."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.faults.cases import Case, Right, Row, files, lines, refused, said, table
from benchmarks.faults.kit import BAD, text_rows, without

RUN = ("sft.py", "--model", "kit/model", "--config", "kit/tiny.yaml", "--output", "out")


def data_case(name: str, file: str, content: object, right: tuple[Right, ...], *options: str, chat: bool = False) -> Case:
    model = ("--model", "kit/chat") if chat else ()
    return Case(f"data/{name}", (*RUN, *model, "--dataset", file, *options), right, files({file: content}))  # type: ignore[dict-item]


def changed(rows: list[Row], change: Row) -> list[Row]:
    """Return rows of which the bad ones have these values."""
    return [{**row, **(change if i in BAD else {})} for i, row in enumerate(rows)]


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a preference file."""
    yield data_case("plain/text", "data.jsonl", table(text_rows()), said())
    yield data_case("plain/without", "data.jsonl", table(without(text_rows())), said())
    for name, value in {"null": None, "number": 7, "list of numbers": [1], "blank": "  "}.items():
        rows = table(changed(text_rows(), {"chosen": value}))
        yield data_case(f"row/{name}/refuse", "data.jsonl", rows, refused("data.jsonl", "5"), "--bad-rows", "refuse")
        yield data_case(f"row/{name}/drop", "data.jsonl", rows, said("2 bad rows", "5", "18", like="data/plain/without"))
