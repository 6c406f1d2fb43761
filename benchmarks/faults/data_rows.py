"""Preference files with damaged rows and lines, and rows that a parser may take for ever on."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.faults import kit
from benchmarks.faults.cases import (
    Case,
    Row,
    drawn,
    lines,
    refused,
    said,
    table,
)
from benchmarks.faults.kit import BAD, turn
from benchmarks.faults.preferences import GONE, LAYOUTS, NAN, NUMBERS, case, damaged, plain


def cases(seed: int) -> Iterator[Case]:
    """Yield damaged rows and lines."""
    yield from bad_rows(seed)
    yield from bad_lines()


# ---- damaged rows ---------------------------------------------------------------------------------

NO_TEXT: dict[str, Any] = {"null": None, "a number": 7, "true": True, "numbers": [1, 2], "a mapping": {"a": 1}}
NO_ANSWER: dict[str, Any] = {"empty": "", "blank": " \n ", "a lone surrogate": "a\ud800b", **NO_TEXT}
NO_TURN: dict[str, Any] = {
    "no role": [{"content": "It slept."}],
    "no content": [{"role": "assistant"}],
    "null content": [turn("assistant", None)],
    "a number as content": [turn("assistant", 3)],
    "an image": [turn("assistant", [{"type": "image", "url": "x.png"}])],
    "a number as role": [turn(1, "It slept.")],
    "no messages": [],
    "the user's turn": [turn("user", "It slept.")],
    "two answers": [turn("assistant", "It slept."), turn("assistant", "It sang.")],
    "the user's turn inside": [turn("assistant", "It slept."), turn("user", "Why?"), turn("assistant", "I know.")],
    "a list in the list": [[turn("assistant", "It slept.")]],
    "text among messages": [turn("assistant", "It slept."), "and sang"],
    "null among messages": [None],
}
ROW_FAULTS: dict[str, tuple[str, Row]] = {
    **{
        f"{field} is {what}": ("text", {field: value})
        for field in ("prompt", "chosen", "rejected")
        for what, value in NO_ANSWER.items()
        if (field, what) != ("prompt", "null")
    },
    **{f"{field} is missing": ("text", {field: GONE}) for field in ("chosen", "rejected")},
    **{f"chosen of a dialogue is {what}": ("implicit", {"chosen": value}) for what, value in NO_ANSWER.items()},
    **{f"turns: {what}": ("messages", {"chosen": value}) for what, value in NO_TURN.items()},
    **{
        f"prompt turns: {what}": ("messages", {"prompt": value})
        for what, value in NO_TURN.items()
        if what not in ("the user's turn", "two answers", "the user's turn inside", "no messages")
    },
    "chosen equals rejected": ("text", {"chosen": " It slept.", "rejected": " It slept."}),
    "chosen equals rejected but for blanks": ("text", {"chosen": " It slept.", "rejected": "It slept.  "}),
    **{
        f"responses are {what}": ("ranked", {"responses": value})
        for what, value in {
            "one": [" It slept."],
            "none": [],
            "text": " It slept.",
            "a mapping": {"best": " It slept."},
            "a number": 3,
            "partly null": [" It slept.", None],
            "partly empty": [" It slept.", ""],
            "partly numbers": [" It slept.", 2],
            "all equal": [" It slept."] * 3,
        }.items()
    },
    **{
        f"rank is {what}": ("ranked", {"rank": value})
        for what, value in {
            "short": [0, 1],
            "long": [0, 1, 2, 3],
            "words": ["a", "b", "c"],
            "partly null": [0, None, 2],
            "text": "0,1,2",
            "all equal": [1, 1, 1],
            "true": [True, False, True],
            "partly NaN": [0, NAN, 2],
            "infinite": [0, float("inf"), 1],
            "a number": 0,
        }.items()
    },
    **{
        f"label is {what}": ("single", {"label": value})
        for what, value in {
            "null": None,
            "a word": "good",
            "a half": 0.5,
            "negative": -1,
            "two": 2,
            "a list": [True],
            "missing": GONE,
        }.items()
    },
    **{f"completion is {what}": ("single", {"completion": value}) for what, value in NO_ANSWER.items()},
    **{
        f"preference is {what}": ("text", {"preference": value})
        for what, value in {
            "negative": -0.1,
            "a percentage": 80,
            "a word": "high",
            "infinite": float("inf"),
            "true": True,
            "a list": [0.7],
            "huge": 10**400,
        }.items()
    },
    **{
        f"margin is {what}": ("text", {"margin": value})
        for what, value in {
            "negative": -1,
            "a word": "large",
            "infinite": float("inf"),
            "true": True,
            "a mapping": {},
            "huge": 10**400,
        }.items()
    },
}


def bad_rows(seed: int) -> Iterator[Case]:
    """Yield each fault of a row: refused by number where that is asked for, else dropped and counted."""
    for what, (layout, change) in ROW_FAULTS.items():
        rows = damaged(LAYOUTS[layout](), change)
        like = plain(layout, whole=False)
        right = refused("data.jsonl", *NUMBERS)
        yield case(f"row refused/{what}", "data.jsonl", table(rows), right, "--bad-rows", "refuse")
        for file in drawn(other_formats(rows, change), 1, f"{seed} {what}"):
            numbers = [str(int(n) + (file == "data.csv")) for n in NUMBERS]
            yield case(
                f"row refused/{what}, {file}", file, table(rows), refused(file, *numbers), "--bad-rows", "refuse"
            )
        if drawn([True, False, False], 1, f"drop {seed} {what}")[0]:
            yield case(f"row dropped/{what}", "data.jsonl", table(rows), said("2 ", *NUMBERS, like=like))


def other_formats(rows: Sequence[Row], change: Row) -> list[str]:
    """Return the formats that can hold such rows and still mean the same by them."""
    values = [value for value in change.values() if value is not GONE]
    found = ["data.json", "data.jsonl.gz", "data.json.gz"]
    if all(isinstance(value, str) and value.isprintable() for row in rows for value in row.values()):
        found += ["data.csv", "data.parquet"]
    elif all(value is None for value in values) and "label" not in change:
        found.append("data.parquet")
    return found


# ---- damaged lines --------------------------------------------------------------------------------

LINES: dict[str, bytes] = {
    "cut in the middle": b'{"prompt": "a", "chosen": "b", "rej',
    "a list": b'["a", "b"]',
    "a number": b"17",
    "a text": b'"chosen"',
    "null": b"null",
    "words": b"chosen: good",
    "single quotes": b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}",
    "a trailing comma": b'{"prompt": "a", "chosen": "b", "rejected": "c",}',
    "two objects": b'{"prompt": "a"}{"chosen": "b"}',
    "NUL bytes": b"\0\0\0\0",
    "not UTF-8": b'{"prompt": "a\xff", "chosen": "b", "rejected": "c"}',
    "latin-1": '{"prompt": "é", "chosen": "ü", "rejected": "ö"}'.encode("latin-1"),
    "a control character": b'{"prompt": "a\x01", "chosen": "b", "rejected": "c"}',
    "an enormous integer": b'{"prompt": ' + b"9" * 5000 + b', "chosen": "b", "rejected": "c"}',
    "nested without end": b"[" * 100_000,
    "mappings without end": b'{"a":' * 50_000,
    "a merge conflict": b"<<<<<<< HEAD",
    "a comment": b"// rows of 2024",
    "an unclosed string": b'{"prompt": "' + b"a" * 300_000,
}
SLOW = {
    "Human": "\n\nHuman:" * 100_000,
    "blanks": "a" + " " * 900_000,
    "newlines": "a" + "\n" * 900_000,
    "brackets": "[" * 900_000,
    "braces": '[{"role": ' * 90_000,
    "turns": "<|im_start|>user\na<|im_end|>\n" * 30_000,
    "instructions": "[INST] a [/INST]" * 50_000,
}


def bad_lines() -> Iterator[Case]:
    """Yield lines that are no row, and rows of a megabyte that a parser may take for ever on."""
    for what, line in LINES.items():
        content = lines(kit.text_rows()).encode().split(b"\n")
        for i in BAD:
            content[i] = line
        text = b"\n".join(content)
        yield case(f"line/{what}", "data.jsonl", text, refused("data.jsonl", *NUMBERS), "--bad-rows", "refuse")
        zipped = refused("data.jsonl.gz", *NUMBERS)
        yield case(f"line/{what}, gz", "data.jsonl.gz", gzip.compress(text), zipped, "--bad-rows", "refuse")
    for what, value in SLOW.items():
        for fields in (("prompt",), ("chosen", "rejected")):
            change = {name: value + "x" * n for n, name in enumerate(fields)}
            rows = table(damaged(kit.text_rows() if len(fields) == 1 else kit.implicit_rows(), change))
            like = plain("text" if len(fields) == 1 else "implicit", whole=False)
            yield case(
                f"long row/{what} in {fields[0]}", "data.jsonl", rows, (*said(like=like), *refused("data.jsonl"))
            )
