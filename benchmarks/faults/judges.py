"""Files of human verdicts as judge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from benchmarks.faults import kit
from benchmarks.faults.cases import Case, Content, Right, Row, files, lines, refused, said, words
from benchmarks.faults.kit import answer_rows

COMMAND = words(
    "evaluate.py --model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out "
    "--models a=r.jsonl --judge"
)


def verdicts() -> list[Row]:
    """Return verdicts on pairs of ordinary answers."""
    return [
        {"prompt": kit.prompt(i), "first": kit.answer(i, True), "second": kit.answer(i, False), "verdict": "first"}
        for i in range(12)
    ]


def changed(change: Row) -> str:
    """Return verdicts of which the seventh has these values."""
    return lines({**row, **(change if i == 6 else {})} for i, row in enumerate(verdicts()))


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a file of verdicts."""
    values: dict[str, Any] = {
        "null": None,
        "a number": 7,
        "a list": ["a"],
        "a mapping": {},
        "true": True,
        "NaN": float("nan"),
    }
    for field in ("prompt", "first", "second", "verdict", "annotator"):
        for what, value in values.items():
            yield case(f"row/{field} is {what}", changed({field: value}), refused("v.jsonl", "7", field))
        if field != "annotator":
            gone = lines({k: v for k, v in row.items() if i != 6 or k != field} for i, row in enumerate(verdicts()))
            yield case(f"row/{field} is missing", gone, refused("v.jsonl", "7", field))
    for word in ("FIRST", "1", "both", "", "first ", "third", "a"):
        yield case(f"row/verdict is {word!r}", changed({"verdict": word}), refused("v.jsonl", "7", "verdict"))
    text = lines(verdicts())
    for what, (content, parts) in {
        "empty": ("", ()),
        "blank": ("\n\n", ()),
        "cut": (text[:-30], ("12",)),
        "no JSON": ("first wins\n" + text, ("1",)),
        "a list": ("[" + text.replace("\n", ",")[:-1] + "]", ("1",)),
        "a number": ("7\n" + text, ("1",)),
        "nested": ("[" * 100_000 + "\n" + text, ("1",)),
        "an enormous integer": ('{"prompt": ' + "9" * 5000 + "}\n" + text, ("1",)),
        "UTF-16": (text.encode("utf-16"), ()),
        "not UTF-8": (text.encode().replace(b"ball", b"ba\xff"), ()),
        "zeros": (bytes(999), ()),
        "a web page": ("<html></html>", ("1",)),
        "an LFS pointer": ("version https://git-lfs.github.com/spec/v1\n", ("1",)),
        "answers in place of verdicts": (lines(answer_rows()), ("1",)),
        "a table": ("prompt,first,second,verdict\na,b,c,first\n", ("1",)),
    }.items():
        yield case(f"file/{what}", content, refused("v.jsonl", *parts))
    for what, content in {
        "a folder": os.mkdir,
        "an endless pipe": os.mkfifo,
        "a loop": lambda path: path.symlink_to(path.name),
    }.items():
        yield case(f"file/{what}", content, refused("v.jsonl"))
    strange = lines({**row, "prompt": "Who else?"} for row in verdicts())
    yield case("other pairs/none of ours", strange, (*said("verdict|missing|no answer"), *refused("v.jsonl")))
    for what, given in {
        "nothing": "",
        "no such file": "nowhere.jsonl",
        "no such word": "endpont",
        "a picture": "p.png",
    }.items():
        right = refused(given or "judge")
        yield Case(
            f"judges/place/{what}",
            (*COMMAND, given),
            right,
            files({"r.jsonl": lines(answer_rows()), "p.png": b"\x89PNG\r\n"}),
        )


def case(name: str, content: Content, right: tuple[Right, ...]) -> Case:
    """Return a case in which a file of verdicts judges."""
    return Case(
        f"judges/{name}", (*COMMAND, "v.jsonl"), right, files({"r.jsonl": lines(answer_rows()), "v.jsonl": content})
    )
