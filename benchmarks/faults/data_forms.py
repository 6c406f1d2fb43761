"""Preference files that are odd and right: absent values, other forms of the same rows, dialogues in many rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.faults import kit
from benchmarks.faults.cases import (
    Accepted,
    Case,
    Content,
    Row,
    lines,
    refused,
    said,
    table,
)
from benchmarks.faults.kit import BAD, turn
from benchmarks.faults.preferences import NAN, case, plain, plain_files


def cases(seed: int) -> Iterator[Case]:
    """Yield the plain files, and odd ones that mean the same or must not be taken for something else."""
    yield from plain_files()
    yield from absent_values()
    yield from same_rows()
    yield from split_apart()


# ---- absent values --------------------------------------------------------------------------------

OPTIONAL = {"group": "dialogues", "subset": "chat", "source": "web", "preference": 1.0, "margin": 2.0}
ABSENT = {"null": None, "NaN": NAN, "empty": ""}


def absent_values() -> Iterator[Case]:
    """Yield tables in which an optional field has a value in no row, or in some: the others are as without it."""
    for field, value in OPTIONAL.items():
        for what, nothing in ABSENT.items():
            rows = [{**row, field: nothing} for row in kit.text_rows()]
            for file in ("data.jsonl", "data.csv") if what != "null" else ("data.jsonl", "data.parquet"):
                yield case(f"absent/{field} is {what}, {file}", file, table(rows), said(like=plain("text")))
            if field in ("group", "preference", "margin"):  # in two rows a value, which stand where they stood
                some = [
                    {**row, field: f"{value} {i}" if field == "group" else value if i in BAD else nothing}
                    if i in BAD
                    else {**row, field: nothing}
                    for i, row in enumerate(kit.text_rows())
                ]
                name = f"absent/plain {field}"
                if what == "null":
                    bare = [{k: v for k, v in row.items() if v is not None} for row in some]
                    yield case(name, "data.jsonl", table(bare), said())
                yield case(f"absent/{field} is partly {what}", "data.jsonl", table(some), said(like=f"data/{name}"))
    for what, nothing in ABSENT.items():
        ranked = [{**row, "rank": nothing} for row in kit.ranked_rows()]
        yield case(f"absent/rank is {what}", "data.jsonl", table(ranked), said(like=plain("ranked")))
        for field in ("responses", "completion", "label"):
            rows = [{**row, field: nothing} for row in kit.text_rows()]
            yield case(f"absent/{field} is {what}", "data.jsonl", table(rows), said(like=plain("text")))
        rows = [{**row, "prompt": nothing} for row in kit.implicit_rows()]
        yield case(f"absent/prompt is {what}", "data.jsonl", table(rows), said(like=plain("implicit")))


# ---- other forms of the same rows -----------------------------------------------------------------


def same_rows() -> Iterator[Case]:
    """Yield odd forms of ordinary rows: they are read as the same, or refused by name."""
    for name, (layout, content) in forms().items():
        like = plain(layout)
        chat = layout == "messages-chat"
        if "Windows" in name and layout == "implicit":  # the texts may keep their line ends
            rows = [{**row, "prompt": row["prompt"].replace("\n", "\r\n")} for row in kit.text_rows()]
            yield case("plain/text, Windows line ends", "data.jsonl", table(rows), said())
            kept = said(like="data/plain/text, Windows line ends")
        else:
            kept = ()
        yield case(f"same/{name}", name_of(content), content, (*said(like=like), *kept, *refused("data.")), chat=chat)
    for what, (good, bad) in LABELS.items():
        rows = [{**row, "label": good if row["label"] else bad} for row in kit.single_rows()]
        yield case(f"same/labels as {what}", "data.jsonl", table(rows), said(like=plain("single")))


LABELS: dict[str, tuple[Any, Any]] = {
    "floats": (1.0, 0.0),
    "integers": (1, 0),
    "words": ("true", "false"),
    "capitals": ("True", "False"),
    "text of floats": ("1.0", "0.0"),
}


def name_of(content: object) -> str:
    """Return a file name for text, bytes or what a table writes."""
    return "data.jsonl" if isinstance(content, (str, bytes)) else getattr(content, "file", "data.jsonl")


def forms() -> dict[str, tuple[str, Content]]:
    """Return the layout that each form means, and its content."""

    def every(rows: Sequence[Row], change: Callable[[Any], Any]) -> str:
        return lines([{name: change(value) for name, value in row.items()} for row in rows])

    text, messages, implicit = kit.text_rows(), kit.message_rows(), kit.implicit_rows()
    return {
        "a byte order mark": ("text", b"\xef\xbb\xbf" + lines(text).encode()),
        "Windows line ends": ("text", lines(text).replace("\n", "\r\n")),
        "blank lines between": ("text", lines(text).replace("\n", "\n\n  \n")),
        "a list in a .jsonl": ("text", json.dumps(text)),
        "no last line end": ("text", lines(text).rstrip()),
        "escaped letters": ("text", lines(text).replace("a", "\\u0061").replace("ch\\u0061", "cha")),
        "dialogues with Windows line ends": ("implicit", every(implicit, lambda v: v.replace("\n", "\r\n"))),
        "messages as JSON text": ("messages-chat", every(messages, json.dumps)),
        "messages as Python text": ("messages-chat", every(messages, repr)),
        "answers as one message": (
            "messages-chat",
            lines([{**row, "chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in messages]),
        ),
        "whole dialogues in both answers": (
            "messages-chat",
            lines(
                [{**r, "chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in messages]
            ),
        ),
        "dialogues alone": (
            "messages-chat",
            lines([{"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in messages]),
        ),
        "from and value": (
            "messages-chat",
            every(
                messages,
                lambda v: [
                    {"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in v
                ],
            ),
        ),
        "parts of text": (
            "messages-chat",
            every(messages, lambda v: [turn(m["role"], [{"type": "text", "text": m["content"]}]) for m in v]),
        ),
        "more keys in a message": ("messages-chat", every(messages, lambda v: [{**m, "weight": None} for m in v])),
        "the prompt again in both answers": (
            "text",
            lines([{**r, "chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in text]),
        ),
        "a bare question beside dialogues": (
            "implicit",
            lines([{**row, "prompt": kit.question(i)} for i, row in enumerate(implicit)]),
        ),
        "rank that says what the order says": ("ranked", lines([{**r, "rank": [0, 1, 2]} for r in kit.ranked_rows()])),
        "rank as floats": ("ranked", lines([{**r, "rank": [0.0, 1.0, 2.0]} for r in kit.ranked_rows()])),
        "rank that turns the order": (
            "ranked",
            lines([{**r, "responses": r["responses"][::-1], "rank": [2, 1, 0]} for r in kit.ranked_rows()]),
        ),
    }


# ---- splits ---------------------------------------------------------------------------------------

PREAMBLES: dict[str, Callable[[int, str], str]] = {
    "text before": lambda i, text: f"Note {i}.\n\n{text}",
    "a system turn before": lambda i, text: f"System: Note {i}.\n\n{text}",
    "a start token before": lambda i, text: "<s>" * (i % 2) + text,
    "blank lines before": lambda i, text: "\n" * (i % 3) + text,
    "Windows line ends": lambda i, text: text.replace("\n", "\r\n") if i % 2 else text,
    "upper case": lambda i, text: text.replace("What", "WHAT") if i % 2 else text,
}
TURNS: dict[str, tuple[str, str]] = {
    "ChatML": ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n"),
    "instructions": ("[INST] {} [/INST]", ""),
    "headers": (
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


def split_apart() -> Iterator[Case]:
    """Yield dialogues of which two rows each differ before or after their first human turn: 20 groups."""

    def rows(write: Callable[[int, str], str]) -> list[Row]:
        return [
            {
                **row,
                "prompt": write(
                    i,
                    kit.prompt(i // 2).removesuffix("\n\nAssistant:")
                    + f"\n\nAssistant: Yes.\n\nHuman: And {i}?\n\nAssistant:",
                ),
            }
            for i, row in enumerate(kit.text_rows())
        ]

    demand = (Accepted(groups=kit.ROWS // 2),)
    for what, write in {"nothing odd": lambda i, text: text, **PREAMBLES}.items():
        yield case(f"split/{what}", "data.jsonl", table(rows(write)), demand)
    for what, (human, assistant) in TURNS.items():
        made = [
            {
                **row,
                "prompt": human.format(kit.question(i // 2))
                + assistant
                + "Yes."
                + human.format(f"And {i}?")
                + assistant,
            }
            for i, row in enumerate(kit.text_rows())
        ]
        yield case(f"split/{what}", "data.jsonl", table(made), demand)
        before = [{**row, "prompt": f"Note {i}.\n" + row["prompt"]} for i, row in enumerate(made)]
        yield case(f"split/{what}, text before", "data.jsonl", table(before), demand)
    system = [
        {**row, "prompt": [turn("system", f"Note {i}."), turn("user", kit.question(i // 2))]}
        for i, row in enumerate(kit.message_rows())
    ]
    yield case("split/system messages", "data.jsonl", table(system), demand, chat=True)
    yield case("split/system messages without a template", "data.jsonl", table(system), demand)
    greeting = [{**row, "prompt": "Human: Hi\n\nAssistant: Hi.\n\n" + row["prompt"]} for row in kit.text_rows()]
    yield case("split/one greeting", "data.jsonl", table(greeting), (*refused("group"), *said("group")))
