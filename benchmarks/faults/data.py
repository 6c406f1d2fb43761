"""Preference files: rows, lines, whole files, absent values, forms that mean the same, columns, layouts, splits."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import kit
from benchmarks.faults.cases import Accepted, Case, Content, Right, Row, drawn, files, lines, refused, said, table
from benchmarks.faults.kit import BAD, turn, without

RUN = ("sft.py", "--config", "kit/tiny.yaml", "--output", "out")
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


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a preference file."""
    yield from plain_files()
    yield from bad_rows(seed)
    yield from bad_lines()
    yield from bad_files()
    yield from absent_values()
    yield from same_rows()
    yield from columns()
    yield from public_layouts()
    yield from split_apart()


def case(name: str, file: str, content: Content, right: tuple[Right, ...], *options: str, chat: bool = False) -> Case:
    """Return a case that trains on one file."""
    model = "kit/chat" if chat else "kit/model"
    return Case(f"data/{name}", (*RUN, "--model", model, "--dataset", file, *options), right, files({file: content}))


# ---- files with which others are compared ---------------------------------------------------------


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


# ---- damaged rows ---------------------------------------------------------------------------------

GONE = object()
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
    **{f"{field} is {what}": ("text", {field: value})
       for field in ("prompt", "chosen", "rejected") for what, value in NO_ANSWER.items()
       if (field, what) != ("prompt", "null")},
    **{f"{field} is missing": ("text", {field: GONE}) for field in ("chosen", "rejected")},
    **{f"chosen of a dialogue is {what}": ("implicit", {"chosen": value}) for what, value in NO_ANSWER.items()},
    **{f"turns: {what}": ("messages", {"chosen": value}) for what, value in NO_TURN.items()},
    **{f"prompt turns: {what}": ("messages", {"prompt": value}) for what, value in NO_TURN.items()
       if what not in ("the user's turn", "two answers", "the user's turn inside", "no messages")},
    "chosen equals rejected": ("text", {"chosen": " It slept.", "rejected": " It slept."}),
    "chosen equals rejected but for blanks": ("text", {"chosen": " It slept.", "rejected": "It slept.  "}),
    **{f"responses are {what}": ("ranked", {"responses": value}) for what, value in {
        "one": [" It slept."], "none": [], "text": " It slept.", "a mapping": {"best": " It slept."}, "a number": 3,
        "partly null": [" It slept.", None], "partly empty": [" It slept.", ""], "partly numbers": [" It slept.", 2],
        "all equal": [" It slept."] * 3,
    }.items()},
    **{f"rank is {what}": ("ranked", {"rank": value}) for what, value in {
        "short": [0, 1], "long": [0, 1, 2, 3], "words": ["a", "b", "c"], "partly null": [0, None, 2], "text": "0,1,2",
        "all equal": [1, 1, 1], "true": [True, False, True], "partly NaN": [0, NAN, 2], "infinite": [0, float("inf"), 1],
        "a number": 0,
    }.items()},
    **{f"label is {what}": ("single", {"label": value}) for what, value in {
        "null": None, "a word": "good", "a half": 0.5, "negative": -1, "two": 2, "a list": [True], "missing": GONE,
    }.items()},
    **{f"completion is {what}": ("single", {"completion": value}) for what, value in NO_ANSWER.items()},
    **{f"preference is {what}": ("text", {"preference": value}) for what, value in {
        "negative": -0.1, "a percentage": 80, "a word": "high", "infinite": float("inf"), "true": True, "a list": [0.7],
        "huge": 10**400,
    }.items()},
    **{f"margin is {what}": ("text", {"margin": value}) for what, value in {
        "negative": -1, "a word": "large", "infinite": float("inf"), "true": True, "a mapping": {}, "huge": 10**400,
    }.items()},
}  # fmt: skip


def damaged(rows: Sequence[Row], change: Row) -> list[Row]:
    """Return the rows, some of them changed."""
    found = [{**row, **change} if i in BAD else row for i, row in enumerate(rows)]
    return [{name: value for name, value in row.items() if value is not GONE} for row in found]


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


# ---- damaged files --------------------------------------------------------------------------------


def _bytes(write: Callable[[Path], None], suffix: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        write(path)
        return path.read_bytes()


def _zip(content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.jsonl", content)
    return held.getvalue()


def bad_files() -> Iterator[Case]:
    """Yield files that are not what their name says, or no files."""
    text = lines(kit.text_rows())
    whole = text.encode()
    for name, (file, content) in whole_files(text, whole).items():
        culprit = "token limits" if name == "nothing that fits" else file.split(".")[0]
        yield case(f"file/{name}", file, content, refused(culprit), chat=name == "text and messages")
    for name, (content, rows) in csv_files().items():
        right = (*refused("data.csv", *rows), *(said("NUL") if name == "NUL bytes" else ()))
        yield case(f"csv/{name}", "data.csv", content, right, "--bad-rows", "refuse")
    for role in ("--dataset", "--heldout"):
        for name, make in {"a folder": os.mkdir, "an endless pipe": os.mkfifo, "a loop": _loop}.items():
            options = (*RUN, "--model", "kit/model", "--dataset", "kit/pairs.jsonl", role, "data.jsonl")
            yield Case(f"data/file/{name}, {role}", options, refused("data.jsonl"), files({"data.jsonl": make}))
        options = (*RUN, "--model", "kit/model", "--dataset", "kit/pairs.jsonl", role, "/dev/zero")
        yield Case(f"data/file/endless zeros, {role}", options, refused("/dev/zero"))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def whole_files(text: str, whole: bytes) -> dict[str, tuple[str, Content]]:
    """Return file name and content by what is wrong with the whole file."""
    parquet, zipped = _bytes(table(kit.text_rows()), ".parquet"), gzip.compress(whole)
    return {
        "empty": ("data.jsonl", b""),
        "empty csv": ("data.csv", b""),
        "empty json": ("data.json", b""),
        "empty gz": ("data.jsonl.gz", b""),
        "empty parquet": ("data.parquet", b""),
        "blank": ("data.jsonl", b"\n \n\n"),
        "an empty list": ("data.json", b"[]"),
        "an empty object": ("data.json", b"{}"),
        "empty objects": ("data.jsonl", b"{}\n" * 40),
        "lists": ("data.json", json.dumps([["a", "b"]] * 40).encode()),
        "a list cut off": ("data.json", json.dumps(kit.text_rows()).encode()[:-40]),
        "columns as lists": ("data.json", json.dumps({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}).encode()),
        "rows under a name": ("data.json", json.dumps({"data": kit.text_rows()}).encode()),
        "UTF-16": ("data.jsonl", text.encode("utf-16")),
        "UTF-32": ("data.jsonl", text.encode("utf-32")),
        "UTF-16 csv": ("data.csv", _bytes(table(kit.text_rows()), ".csv").decode().encode("utf-16")),
        "latin-1 csv": ("data.csv", "prompt,chosen,rejected\né,ü,ö\n".encode("latin-1") * 40),
        "a web page": ("data.jsonl", b"<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"),
        "a web page as csv": ("data.csv", b"<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"),
        "a web page as parquet": ("data.parquet", b"<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"),
        "an LFS pointer": ("data.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "zeros": ("data.jsonl", bytes(10_000)),
        "zeros as parquet": ("data.parquet", bytes(10_000)),
        "noise": ("data.jsonl", bytes(range(256)) * 40),
        "gz cut off": ("data.jsonl.gz", zipped[: len(zipped) // 2]),
        "gz with one bit turned": ("data.jsonl.gz", _turned(zipped)),
        "gz that is text": ("data.jsonl.gz", whole),
        "text that is gz": ("data.jsonl", zipped),
        "gz with a tail": ("data.jsonl.gz", zipped + b"tail"),
        "a gz bomb": ("data.jsonl.gz", gzip.compress(b" " * 200_000_000, 1)),
        "a zip": ("data.jsonl", _zip(whole)),
        "parquet cut off": ("data.parquet", parquet[: len(parquet) // 2]),
        "parquet with its footer damaged": ("data.parquet", parquet[:-60] + bytes(40) + parquet[-20:]),
        "parquet damaged inside": ("data.parquet", parquet[:40] + bytes(200) + parquet[240:]),
        "parquet that is text": ("data.parquet", whole),
        "text that is parquet": ("data.jsonl", parquet),
        "parquet without rows": ("data.parquet", _bytes(table([]), ".parquet")),
        "an unknown suffix": ("data.txt", whole),
        "a spreadsheet": ("data.xlsx", _zip(whole)),
        "tab-separated": ("data.tsv", b"prompt\tchosen\trejected\na\tb\tc\n"),
        "no suffix": ("data", whole),
        "one row": ("data.jsonl", lines(kit.text_rows(1)).encode()),
        "two rows": ("data.jsonl", lines(kit.text_rows(2)).encode()),
        "one prompt": ("data.jsonl", lines([{**row, "prompt": kit.prompt(0)} for row in kit.text_rows()]).encode()),
        "one group": ("data.jsonl", lines([{**row, "group": "all"} for row in kit.text_rows()]).encode()),
        "nothing that fits": ("data.jsonl", lines([{**r, "prompt": "ab" * 500} for r in kit.text_rows()]).encode()),
        "other columns": ("data.jsonl", lines([{"text": "a", "summary": "b"}] * 40).encode()),
        "upper case columns": ("data.jsonl", lines([{"Prompt": "a", "Chosen": "b", "Rejected": "c"}] * 40).encode()),
        "columns with blanks": ("data.jsonl", lines([{" prompt": "a", "chosen ": "b", "rejected": "c"}] * 40).encode()),
        "text and messages": ("data.jsonl", lines([*kit.text_rows(), *kit.message_rows()]).encode()),
    }  # fmt: skip


def _turned(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


def csv_files() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Return CSV files by what is wrong, with the row that must be named."""
    whole = _bytes(table(kit.text_rows()), ".csv").decode()
    rows = whole.split("\r\n")
    one = whole.replace("\r\n", "\n")
    some = [f"{question}?,b,c\n" for question in range(40)]

    def third(line: str) -> bytes:
        return "".join(["prompt,chosen,rejected\n", *some[:3], line, *some[4:]]).encode()

    return {
        "a header alone": (b"prompt,chosen,rejected\n", ()),
        "no header": ("\r\n".join(['"a?","b","c"'] * 40).encode(), ()),
        "semicolons": (one.replace(",", ";").encode(), ()),
        "one name twice": (one.replace("prompt,chosen,rejected", "prompt,chosen,chosen").encode(), ("chosen",)),
        "a cell missing": (third("a?,b\n"), ("5",)),
        "a cell too many": (third("a?,b,c,d\n"), ("5",)),
        "an unclosed quote": (third('"a?,b,c\n'), ()),
        "NUL bytes": (whole.replace("ball", "ba\0ll").encode(), ()),
        "a cell of a megabyte without end": (f"prompt,chosen,rejected\n{'a' * 1_000_000},b,c\n".encode(), ()),
        "blank header": (one.replace("prompt,chosen,rejected", ",,").encode(), ()),
        "rows of nothing": (b"prompt,chosen,rejected\n" + b",,\n" * 40, ()),
        "numbers": (b"prompt,chosen,rejected\n" + b"1,2,2\n" * 40, ("2",)),
        "half a file": (rows[0].encode() + b"\r\n" + rows[1][: len(rows[1]) // 2].encode(), ()),
    }  # fmt: skip


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
                some = [{**row, field: f"{value} {i}" if field == "group" else value if i in BAD else nothing}
                        if i in BAD else {**row, field: nothing} for i, row in enumerate(kit.text_rows())]  # fmt: skip
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
        yield case(f"same/{name}", name_of(content), content, (*said(like=like), *refused("data.")), chat=chat)
    for what, (good, bad) in LABELS.items():
        rows = [{**row, "label": good if row["label"] else bad} for row in kit.single_rows()]
        yield case(f"same/labels as {what}", "data.jsonl", table(rows), said(like=plain("single")))


LABELS: dict[str, tuple[Any, Any]] = {
    "floats": (1.0, 0.0), "integers": (1, 0), "words": ("true", "false"), "capitals": ("True", "False"),
    "text of floats": ("1.0", "0.0"),
}  # fmt: skip


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
        "answers as one message": ("messages-chat", lines(
            [{**row, "chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in messages])),
        "whole dialogues in both answers": ("messages-chat", lines(
            [{**r, "chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in messages])),
        "dialogues alone": ("messages-chat", lines(
            [{"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in messages])),
        "from and value": ("messages-chat", every(messages, lambda v: [
            {"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in v])),
        "parts of text": ("messages-chat", every(messages, lambda v: [
            turn(m["role"], [{"type": "text", "text": m["content"]}]) for m in v])),
        "more keys in a message": ("messages-chat", every(messages, lambda v: [{**m, "weight": None} for m in v])),
        "the prompt again in both answers": ("text", lines(
            [{**r, "chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in text])),
        "a bare question beside dialogues": ("implicit", lines(
            [{**row, "prompt": kit.question(i)} for i, row in enumerate(implicit)])),
        "rank that says what the order says": ("ranked", lines([{**r, "rank": [0, 1, 2]} for r in kit.ranked_rows()])),
        "rank as floats": ("ranked", lines([{**r, "rank": [0.0, 1.0, 2.0]} for r in kit.ranked_rows()])),
        "rank that turns the order": ("ranked", lines(
            [{**r, "responses": r["responses"][::-1], "rank": [2, 1, 0]} for r in kit.ranked_rows()])),
    }  # fmt: skip


# ---- columns --------------------------------------------------------------------------------------

UNREAD = ("question", "instruction", "input", "query", "history", "context", "tools", "functions", "images", "score_chosen",
          "score_rejected", "chosen_score", "winner", "reason", "weight", "conversations")  # fmt: skip
"""Beside prompt, chosen and rejected; what they say must not go by without a word."""
PROMPT_LIKE = ("question", "instruction", "query", "input", "problem", "post")


def columns() -> Iterator[Case]:
    """Yield columns that are not read, or stand in another's place."""
    for name in UNREAD:
        rows = [{**row, name: f"Say it, {i}."} for i, row in enumerate(kit.text_rows())]
        yield case(f"column/{name} is beside", "data.jsonl", table(rows), (*said(name), *refused(name)))
    for name in PROMPT_LIKE:
        rows = [{name: kit.question(i), "chosen": kit.answer(i, True), "rejected": kit.answer(i, False)}
                for i in range(kit.ROWS)]  # fmt: skip
        yield case(f"column/{name} for prompt", "data.jsonl", table(rows), refused(name))
        alike = [
            {**row, "chosen": "He said " + row["chosen"], "rejected": "He said " + row["rejected"]} for row in rows
        ]
        yield case(f"column/{name} for prompt, answers begin alike", "data.jsonl", table(alike), refused(name))
    for name in ("system", "system_prompt"):
        rows = [{name: "Be kind.", **row} for row in kit.message_rows()]
        whole = [{**row, "prompt": [turn("system", "Be kind."), *row["prompt"]]} for row in kit.message_rows()]
        yield case(f"column/plain {name}", "data.jsonl", table(whole), said(), chat=True)
        like = f"data/column/plain {name}"
        yield case(
            f"column/{name}", "data.jsonl", table(rows), (*said(like=like), *said(name), *refused(name)), chat=True
        )
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
    for what, message in {
        "tool calls": {"role": "assistant", "content": "", "tool_calls": calls},
        "tool calls, null content": {"role": "assistant", "content": None, "tool_calls": calls},
        "a function call": {"role": "assistant", "content": None, "function_call": calls[0]["function"]},
    }.items():
        rows = [{**row, "prompt": [*row["prompt"], message, turn("tool", "A ball."), turn("user", "So?")]}
                for row in kit.message_rows()]  # fmt: skip
        yield case(f"column/{what}", "data.jsonl", table(rows), refused("tool|function|call"), chat=True)
    for what, mapping in MAPPINGS.items():
        rows = [{"q": kit.prompt(i), "a": kit.answer(i, True), "b": kit.answer(i, False)} for i in range(kit.ROWS)]
        yield case(f"column/mapping {what}", "data.jsonl", table(rows), refused(mapping[1]), "--columns", mapping[0])


MAPPINGS = {
    "of no such column": ("prompt=question,chosen=a,rejected=b", "question"),
    "to no such field": ("promt=q,chosen=a,rejected=b", "promt"),
    "twice": ("prompt=q,chosen=a,chosen=b", "chosen"),
    "without a sign": ("prompt,chosen", "prompt"),
    "without a name": ("=q,chosen=a,rejected=b", "q"),
    "without a column": ("prompt=,chosen=a,rejected=b", "prompt"),
    "of nothing": (",,", ",,|columns"),
}


def public_layouts() -> Iterator[Case]:
    """Yield the layouts of public data sets: read, or refused with the field named and the way to map it."""
    for name, (fields, row) in PUBLIC.items():
        rows = [row(i) for i in range(kit.ROWS)]
        read = (Accepted(groups=kit.ROWS),)
        yield case(
            f"layout/{name}", "data.jsonl", table(rows), (*read, *refused("|".join(fields), "columns")), chat=True
        )


def _turns(i: int, good: bool) -> list[Row]:
    return [turn("user", kit.question(i)), turn("assistant", kit.answer(i, good))]


PUBLIC: dict[str, tuple[tuple[str, ...], Callable[[int], Row]]] = {
    "UltraFeedback, binarized": (("chosen",), lambda i: {
        "prompt": kit.question(i), "prompt_id": str(i), "chosen": _turns(i, True), "rejected": _turns(i, False),
        "messages": _turns(i, True), "score_chosen": 8.0, "score_rejected": 3.0}),
    "UltraFeedback": (("instruction", "completions"), lambda i: {
        "source": "a", "instruction": kit.question(i), "models": ["m", "n"], "completions": [
            {"model": "m", "response": kit.answer(i, good), "overall_score": 8.0 if good else 3.0}
            for good in (True, False)]}),
    "HH": (("chosen",), lambda i: {
        name: f"\n\n{kit.prompt(i)} {kit.answer(i, name == 'chosen')}" for name in ("chosen", "rejected")}),
    "PKU-SafeRLHF": (("response_0", "better_response_id"), lambda i: {
        "prompt": kit.question(i), "response_0": kit.answer(i, True), "response_1": kit.answer(i, False),
        "better_response_id": 0, "safer_response_id": 0, "is_response_0_safe": True, "is_response_1_safe": False}),
    "SHP": (("history", "human_ref_A"), lambda i: {
        "post_id": str(i), "history": kit.question(i), "human_ref_A": kit.answer(i, True),
        "human_ref_B": kit.answer(i, False), "labels": 1, "score_ratio": 2.0}),
    "Nectar": (("answers",), lambda i: {
        "prompt": f"\n\n{kit.prompt(i)} ", "answers": [
            {"answer": kit.answer(i, good), "model": "m", "rank": 1.0 if good else 2.0} for good in (True, False)]}),
    "HelpSteer2": (("response_1", "preference_strength"), lambda i: {
        "split": "train", "prompt": kit.question(i), "response_1": kit.answer(i, False),
        "response_2": kit.answer(i, True), "preference_strength": 2}),
    "HelpSteer3": (("context", "response1"), lambda i: {
        "domain": "general", "context": [turn("user", kit.question(i))], "response1": kit.answer(i, False),
        "response2": kit.answer(i, True), "overall_preference": 2}),
    "ShareGPT": (("conversations",), lambda i: {
        "conversations": [{"from": "human", "value": kit.question(i)}],
        **{name: {"from": "gpt", "value": kit.answer(i, name == "chosen")} for name in ("chosen", "rejected")}}),
    "Orca pairs": (("question", "system"), lambda i: {
        "system": "Be kind.", "question": kit.question(i), "chosen": kit.answer(i, True),
        "rejected": kit.answer(i, False)}),
    "arena": (("conversation_a", "winner"), lambda i: {
        "model_a": "m", "model_b": "n", "winner": "model_a", "conversation_a": _turns(i, True),
        "conversation_b": _turns(i, False), "turn": 1}),
    "Alpaca": (("instruction", "output"), lambda i: {
        "instruction": kit.question(i), "input": "", "output": [kit.answer(i, True), kit.answer(i, False)]}),
    "reward bench": (("chosen_model", "prompt"), lambda i: {
        "prompt": kit.question(i), "chosen": kit.answer(i, True), "rejected": kit.answer(i, False), "id": i,
        "chosen_model": "m", "rejected_model": "n", "subset": "chat"}),
}  # fmt: skip


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
    "headers": ("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
                "<|start_header_id|>assistant<|end_header_id|>\n\n"),
}  # fmt: skip


def split_apart() -> Iterator[Case]:
    """Yield dialogues of which two rows each differ before or after their first human turn: 20 groups."""

    def rows(write: Callable[[int, str], str]) -> list[Row]:
        return [{**row, "prompt": write(i, kit.prompt(i // 2).removesuffix("\n\nAssistant:")
                                        + f"\n\nAssistant: Yes.\n\nHuman: And {i}?\n\nAssistant:")}
                for i, row in enumerate(kit.text_rows())]  # fmt: skip

    demand = (Accepted(groups=kit.ROWS // 2),)
    for what, write in {"nothing odd": lambda i, text: text, **PREAMBLES}.items():
        yield case(f"split/{what}", "data.jsonl", table(rows(write)), demand)
    for what, (human, assistant) in TURNS.items():
        made = [{**row, "prompt": human.format(kit.question(i // 2)) + assistant + "Yes." + human.format(f"And {i}?")
                 + assistant} for i, row in enumerate(kit.text_rows())]  # fmt: skip
        yield case(f"split/{what}", "data.jsonl", table(made), demand)
        before = [{**row, "prompt": f"Note {i}.\n" + row["prompt"]} for i, row in enumerate(made)]
        yield case(f"split/{what}, text before", "data.jsonl", table(before), demand)
    system = [{**row, "prompt": [turn("system", f"Note {i}."), turn("user", kit.question(i // 2))]}
              for i, row in enumerate(kit.message_rows())]  # fmt: skip
    yield case("split/system messages", "data.jsonl", table(system), demand, chat=True)
    yield case("split/system messages without a template", "data.jsonl", table(system), demand)
    greeting = [{**row, "prompt": "Human: Hi\n\nAssistant: Hi.\n\n" + row["prompt"]} for row in kit.text_rows()]
    yield case("split/one greeting", "data.jsonl", table(greeting), (*refused("group"), *said("group")))
