"""Files and hub data sets as numbered raw rows, whatever is in them; `preflab.data.formats` makes sense of the rows.

Rows are read one after the other, and nothing is kept of them here. `datasets` and `pyarrow` are imported where they
are used: reading JSON or CSV needs neither.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from preflab.errors import UserError

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".csv")
UNREADABLE = "\0unreadable"  # marks a row that is no object; a NUL cannot be a column name anyone uses

BATCH = 1000  # rows that are made of columns at once
LONGEST_CELL = 1 << 30


class RowError(Exception):
    """Why one row is unusable.

    Attributes:
        value: the value that is wrong, for an example; the reason alone says how many rows share it.
    """

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason)
        self.value = value


def read_rows(source: str, split: str = "train") -> list[tuple[int, Row]]:
    """Return all that `iter_rows` gives."""
    return list(iter_rows(source, split))


def iter_rows(source: str, split: str = "train") -> Iterator[tuple[int, Row]]:
    """Read a local file (see `SUFFIXES`), a data folder or a hub data set, with 1-based row numbers.

    Row numbers are line numbers of JSON-lines files, spreadsheet rows of CSV files (the header is row
    1), and positions elsewhere. What cannot be read as a row stays, marked, to be counted as bad.

    Raises:
        UserError: for a missing or unreadable file, an unknown suffix, or a hub that cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_file():
        try:
            yield from _read_file(path)
        except UnicodeDecodeError as error:
            raise UserError(f"data file {path} cannot be read: {error}; save it as UTF-8") from None
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            raise UserError(f"data file {path} cannot be read: {error}") from None
        return
    if not path.is_dir() and (source.startswith((".", "/", "~")) or source.endswith(SUFFIXES)):
        raise UserError(f"data file {path} does not exist")
    yield from _read_hub(source, split)


def iter_prompts(source: str) -> Iterator[tuple[int, Row]]:
    """Read a file of prompts: of a text file each line that is not empty, else what `iter_rows` gives.

    Raises:
        UserError: as `iter_rows` does.
    """
    path = Path(source).expanduser()
    if path.suffix != ".txt":
        yield from iter_rows(source)
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt file {path} cannot be read: {error}") from None
    yield from ((number, {"prompt": line}) for number, line in enumerate(lines, 1) if line.strip())


def _read_file(path: Path) -> Iterator[tuple[int, Row]]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith(".csv"):
        return _read_csv(path)
    if not name.endswith(SUFFIXES):
        raise UserError(f"data file {path} has an unknown suffix; use one of {', '.join(SUFFIXES)}")
    return _read_json(path)


# ---- parquet -----------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=BATCH)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"data file {path} is not readable parquet: {error}") from None


# ---- CSV ---------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict: otherwise a quote that is never closed would make one cell of the rest of the file.
        reader = csv.reader(_without_nul(file, path), strict=True)
        try:
            names = _header(next(reader, []), path)
            yield from ((number, _cells(names, cells)) for number, cells in enumerate(reader, 2) if cells)
        except csv.Error as error:
            raise UserError(f"data file {path} cannot be read: line {reader.line_num}: {error}") from None


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"data file {path} cannot be read: line {number} holds NUL bytes; save it as UTF-8")
        yield line


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise UserError(f"data file {path} has one column, {names[0]!r}; separate columns by commas")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"data file {path} has the column {twice!r} twice")
    return names


def _cells(names: list[str], cells: list[str]) -> Row:
    if len(cells) != len(names):
        return {UNREADABLE: ("more" if len(cells) > len(names) else "fewer") + " cells than columns"}
    return {name: cell for name, cell in zip(names, cells, strict=True) if name}  # an index has no name


# ---- JSON --------------------------------------------------------------------------------------------


class _TwiceError(ValueError):
    """A key that stands twice in one object: one of its values would be lost."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    whole = path.name.lower().endswith((".json", ".json.gz"))
    with _opened(path) as file:
        start = file.read(1 << 16)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"data file {path} cannot be read: it is UTF-16; save it as UTF-8")
        first = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        file.seek(0)
        if first == b"[" or (first == b"{" and whole):  # one JSON value, whatever the suffix says
            values = _json(file.read())
            if isinstance(values, list):
                yield from ((number, _row(value)) for number, value in enumerate(values, 1))
                return
            if isinstance(values, dict) and UNREADABLE not in values:
                yield 1, values
                return
            if first == b"[" and whole:
                raise UserError(f"data file {path} starts like a JSON list but is not valid JSON")
            file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _row(_json(line))


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _json(content: bytes) -> Any:
    """Return a JSON value, or a marked row that says why there is none."""
    try:
        return _DECODER.decode(content.decode("utf-8-sig").strip())
    except _TwiceError:
        return {UNREADABLE: "a key twice in one object"}
    except (ValueError, RecursionError):
        return None


def _row(value: Any) -> Row:
    return value if isinstance(value, dict) else {UNREADABLE: "not JSON"}


def rows_of(columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    """Yield the rows of columns."""
    names = list(columns)
    return (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))


# ---- the hub -----------------------------------------------------------------------------------------


def _read_hub(name: str, split: str) -> Iterator[tuple[int, Row]]:
    import datasets

    try:
        batches = datasets.load_dataset(name, split=split).iter(batch_size=BATCH)
        yield from enumerate((row for batch in batches for row in rows_of(batch)), 1)
    except Exception as error:  # the hub client raises many unrelated types, all of them a person's to mend
        raise UserError(
            f"data set {name!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {error}. "
            f"Check name, split and network (HF_HUB_OFFLINE), or give a local file: {', '.join(SUFFIXES)}"
        ) from None
