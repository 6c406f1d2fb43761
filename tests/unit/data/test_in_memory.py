"""Rows that a program holds: what each form becomes, and what no file of rows could hold."""

from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys

import datasets
import numpy as np
import pandas
import pytest
from preference_files import preference_rows

from preflab.data.in_memory import as_file, numbered
from preflab.data.reading import read_rows
from preflab.errors import UserError

ROWS = preference_rows(5)


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        datasets.Dataset.from_list,
        pandas.DataFrame,
        lambda rows: datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
    ],
    ids=["list", "tuple", "Dataset", "DataFrame", "DatasetDict"],
)
def test_every_form_becomes_the_same_file(tmp_path, form):
    path = as_file(form(ROWS), "dataset", tmp_path / "given")
    assert read_rows(str(path)) == list(enumerate(ROWS, 1)) == list(numbered(form(ROWS), "dataset"))
    assert path == as_file(ROWS, "dataset", tmp_path / "given"), "content alone decides the name"
    assert path != as_file(ROWS[:-1], "dataset", tmp_path / "given")


def test_a_name_is_read_as_files_are(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen\na,b\n")
    assert list(numbered(path, "pairs")) == [(2, {"prompt": "a", "chosen": "b"})]


def test_cells_are_those_of_a_file(tmp_path):
    day = datetime.date(2026, 1, 2)
    cells = [np.int64(3), np.float32(0.5), float("nan"), pandas.NA, pandas.NaT, decimal.Decimal("1.5"), day]
    row = {f"c{at}": cell for at, cell in enumerate(cells)}
    row |= {"messages": np.array([{"role": "user", "content": "hi"}]), "pair": ("a", "b"), "half": "\ud800"}
    path = as_file([row], "dataset", tmp_path)
    [(number, found)] = read_rows(str(path))
    assert number == 1
    assert list(found.values())[:7] == [3, 0.5, None, None, None, 1.5, "2026-01-02"]
    assert found["messages"] == [{"role": "user", "content": "hi"}]
    assert (found["pair"], found["half"]) == (["a", "b"], "\ud800")


def test_a_format_that_somebody_set_is_no_part_of_the_rows():
    data = datasets.Dataset.from_list([{"prompt": "a", "rank": [0, 1]}]).with_format("numpy")
    assert list(numbered(data, "dataset")) == [(1, {"prompt": "a", "rank": [0, 1]})]
    assert data.format["type"] == "numpy"


def test_splits_and_an_index_that_are_not_read_are_said(caplog):
    data = datasets.DatasetDict({name: datasets.Dataset.from_list(ROWS) for name in ("train", "test")})
    assert len(list(numbered(data, "dataset", "test"))) == 5
    assert "split test is read, and not train" in caplog.text
    frame = pandas.DataFrame(ROWS, index=pandas.Index(range(5), name="id"))
    assert "id" not in next(numbered(frame, "dataset"))[1]
    assert "index 'id' is not read" in caplog.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "dataset is a int; it takes a list of dicts"),
        ({"prompt": ["a"]}, "from_dict"),
        (b"rows", "dataset is a bytes"),
        ((row for row in ROWS), "dataset is a generator"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "is a stream"),
        (datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)), "no split 'train' but test"),
        ([ROWS[0], "text"], "dataset, row 2 is 'text'"),
        ([{1: "a"}], "dataset, row 1 has a column 1"),
        ([ROWS[0], {"prompt": "a", "image": object()}], "dataset, row 2, column image holds a object"),
        ([{"prompt": [{"content": b"x"}]}], "row 1, column prompt holds a bytes"),
        (pandas.DataFrame([["a", "b"]]), "the column 0 has no name"),
        (pandas.DataFrame([["a", "b"]], columns=["x", "x"]), "the column 'x' twice"),
        ([], "dataset is empty"),
        (pandas.DataFrame(), "dataset is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_file_of_rows_is_refused(tmp_path, value, said):
    with pytest.raises(UserError) as raised:
        as_file(value, "dataset", tmp_path)
    assert said in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_lists_need_neither_pandas_nor_datasets():
    code = """
import sys
from preflab.data.in_memory import numbered
assert list(numbered([{"a": 1}], "dataset")) == [(1, {"a": 1})]
assert not {"pandas", "datasets", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_file_is_json_lines(tmp_path):
    path = as_file(ROWS, "heldout", tmp_path)
    assert path.name.startswith("heldout-")
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
