"""Preference files that are not what their name says, or no files."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults import kit
from benchmarks.faults.cases import (
    Case,
    Content,
    files,
    lines,
    refused,
    said,
    table,
)
from benchmarks.faults.preferences import RUN, case


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


def cases(seed: int) -> Iterator[Case]:
    """Yield files that are not what their name says, or no files."""
    text = lines(kit.text_rows())
    whole = text.encode()
    for name, (file, content) in whole_files(text, whole).items():
        culprit = "token limits" if name == "nothing that fits" else file.split(".")[0]
        yield case(f"file/{name}", file, content, refused(culprit), chat=name == "text and messages")
    for name, (content, rows) in csv_files().items():
        also = {"NUL bytes": said("NUL"), "a cell of a megabyte without end": refused("token limits")}.get(name, ())
        right = (*refused("data.csv", *rows), *also)
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
    }


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
    }
