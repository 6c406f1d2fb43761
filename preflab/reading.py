"""Files and hub data sets as numbered raw rows, whatever is in them; `preflab.cleaning` makes sense of the rows.

`datasets` and `pyarrow` are imported where they are used: reading JSON or CSV needs neither.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from preflab.errors import UserError

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".csv")
UNREADABLE = "\0unreadable"  # marks a row that is no object; a NUL cannot be a column name anyone uses


class RowError(Exception):
    """Why one row is unusable.

    Attributes:
        value: the value that is wrong, for an example; the reason alone says how many rows share it.
    """

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason)
        self.value = value


def read_rows(source: str, split: str = "train") -> list[tuple[int, Row]]:
    """Read a local file (see `SUFFIXES`), a data folder or a hub data set, with 1-based row numbers.

    Row numbers are line numbers of JSON-lines files, spreadsheet rows of CSV files (the header is row
    1), and positions elsewhere. A line that is not a JSON object stays, marked, to be counted as bad.

    Raises:
        UserError: for a missing or unreadable file, an unknown suffix, or a hub that cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_file():
        try:
            return _read_file(path)
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"data file {path} cannot be read: {error}") from None
    if not path.is_dir() and (source.startswith((".", "/", "~")) or source.endswith(SUFFIXES)):
        raise UserError(f"data file {path} does not exist")
    return _read_hub(source, split)


def _read_file(path: Path) -> list[tuple[int, Row]]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
        except pyarrow.ArrowException as error:
            raise UserError(f"data file {path} is not readable parquet: {error}") from None
    if name.endswith(".csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(enumerate(csv.DictReader(file), 2))
    if not name.endswith(SUFFIXES):
        raise UserError(f"data file {path} has an unknown suffix; use one of {', '.join(SUFFIXES)}")
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):  # one JSON list, whatever the suffix says
        values = _json(content)
        if isinstance(values, list):
            return [(n, _object(value)) for n, value in enumerate(values, 1)]
        if name.endswith((".json", ".json.gz")):
            raise UserError(f"data file {path} starts like a JSON list but is not valid JSON")
    lines = enumerate(content.split(b"\n"), 1)
    return [(n, _object(_json(line))) for n, line in lines if line.strip()]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else {UNREADABLE: "not JSON"}


def _read_hub(name: str, split: str) -> list[tuple[int, Row]]:
    import datasets

    try:
        return list(enumerate(map(dict, datasets.load_dataset(name, split=split)), 1))
    except Exception as error:  # the hub client raises many unrelated types, all of them a person's to mend
        raise UserError(
            f"data set {name!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {error}. "
            f"Check name, split and network (HF_HUB_OFFLINE), or give a local file: {', '.join(SUFFIXES)}"
        ) from None
