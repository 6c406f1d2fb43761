"""Files of every format are read as the same rows, or named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from data_rows import ROWS, pair, write

from preflab.data.formats import preference_rows
from preflab.data.reading import read_rows
from preflab.data.splits import to_dataset
from preflab.errors import UserError


@pytest.mark.parametrize("suffix", ["json", "json.gz", "jsonl", "jsonl.gz", "parquet", "csv", "JSONL"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = read_rows(str(write(tmp_path / f"d.{suffix.lower()}", ROWS).rename(tmp_path / f"x.{suffix}")))
    assert [row for _, row in rows] == ROWS
    first = 2 if suffix == "csv" else 1  # a spreadsheet shows the header as row 1
    assert [n for n, _ in rows] == [first, first + 1]


def test_json_lines_under_a_json_suffix_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    assert [row for _, row in read_rows(str(path))] == ROWS


def test_lines_that_are_not_json_objects_are_bad_rows_with_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [
        json.dumps(pair()).encode(),
        b"{broken",
        b"",
        b"[1, 2]",
        b"\xff\xfe",
        json.dumps(pair("b")).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    rows, bad = preference_rows(read_rows(str(path)))
    assert [row["prompt"] for row in rows] == ["Q", "b"]
    assert bad.reasons == {"not JSON": [2, 4, 5]}  # line 3 is empty, not bad


def test_csv_rows_with_too_many_or_too_few_cells_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b'\xef\xbb\xbf,prompt , chosen,rejected\n0,a,yes,no\n1,a,yes,no,more\n\n2,a,yes\n3,b,"y\ns",no\n')
    rows, bad = preference_rows(read_rows(str(path)))
    assert [(row["prompt"], row["chosen"]) for row in rows] == [("a", "yes"), ("b", "y\ns")]
    assert bad.reasons == {"more cells than columns": [3], "fewer cells than columns": [5]}


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,chosen,rejected\nQ,yes," + "x" * 200_000 + "\n")
    assert len(read_rows(str(path))[0][1]["rejected"]) == 200_000


def test_a_key_that_stands_twice_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "Q", "chosen": "a", "chosen": "b", "rejected": "c"}\n' + json.dumps(pair()))
    assert preference_rows(read_rows(str(path)))[1].reasons == {"a key twice in one object": [1]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.csv", "prompt,chosen\nvoil\u00e0,x\n".encode("latin-1"), ["latin.csv", "UTF-8"]),
        ("wide.csv", "prompt,chosen\n".encode("utf-16-le"), ["wide.csv", "line 1", "NUL", "UTF-8"]),
        ("wide.jsonl", '{"prompt": 1}'.encode("utf-16"), ["wide.jsonl", "UTF-16"]),
        ("open.csv", b'prompt,chosen\n"Q,x\ny,z\n', ["open.csv", "line 3"]),
        ("semicolon.csv", b"prompt;chosen;rejected\na;b;c\n", ["semicolon.csv", "one column", "commas"]),
        ("twice.csv", b"prompt,chosen,chosen\na,b,c\n", ["twice.csv", "'chosen' twice"]),
        ("absent.jsonl", None, ["absent.jsonl", "does not exist"]),
        ("notes.txt", b"x", ["notes.txt", "unknown suffix", ".parquet"]),
        ("d.jsonl.gz", b"not gzip", ["d.jsonl.gz", "cannot be read"]),
        ("cut.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-9], ["cut.jsonl.gz", "cannot be read"]),
        ("d.parquet", b"not parquet", ["d.parquet", "parquet"]),
        ("d.json", b"[1, 2", ["d.json", "not valid JSON"]),
        ("d.csv", b"\xff\xfe\xfd", ["d.csv", "cannot be read"]),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes | None, words: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_rows(str(tmp_path / name))
    assert all(word in str(error.value) for word in words), error.value


def test_hub_name_is_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(name: str, split: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"'owner/name' \(split 'test'\).*no network.*local file"):
        read_rows("owner/name", "test")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: to_dataset(ROWS))
    assert read_rows("owner/name") == list(enumerate(ROWS, 1))


def test_a_folder_of_files_goes_to_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: to_dataset([pair(name)]))
    assert read_rows(str(tmp_path))[0][1]["prompt"] == str(tmp_path)
