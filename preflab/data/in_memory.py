"""Rows that a program holds: lists of dicts, pandas' frames, data sets of `datasets`; and the file that they become.

As a file they are read, cleaned and split as everybody's are, other processes can read them, and the run folder holds
what it was made of. Pandas and `datasets` are not imported: whoever has such an object has imported them.
"""

from __future__ import annotations

import datetime
import decimal
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from preflab.data.cells import missing, plain
from preflab.data.reading import BATCH, UNREADABLE, Row, iter_rows, rows_of
from preflab.disk.digests import digest
from preflab.disk.files import write_bytes
from preflab.errors import UserError
from preflab.errors.terminal import shown

logger = logging.getLogger(__name__)

FORMS = "a list of dicts, a pandas DataFrame, a datasets.Dataset, or the name of a file or a data set of the hub"


def is_named(value: Any) -> bool:
    """Whether data, or a model, is given by its name or path."""
    return isinstance(value, (str, os.PathLike))


def numbered(value: Any, name: str, split: str = "train") -> Iterator[tuple[int, Row]]:
    """Yield the rows of whatever holds some, numbered from 1, or as `preflab.data.reading.iter_rows` numbers a file's.

    Args:
        value: one of `FORMS`.
        name: what it was given as, for messages.
        split: of a `DatasetDict`, or of a data set of the hub.

    Raises:
        UserError: for anything else, an empty one, and a cell that no file of rows could hold; with row and column.
    """
    if is_named(value):
        return iter_rows(os.fspath(value), split)
    return enumerate(_plain_rows(_rows(value, name, split), name), 1)


def as_file(value: Any, name: str, folder: Path, split: str = "train") -> Path:
    """Write rows as JSON lines, under a name that their content decides; row n is line n.

    Args:
        value: as `numbered` takes it.
        name: what it was given as: ``dataset``, ``heldout``, ``prompts``.
        folder: made where it does not exist.
        split: of a `DatasetDict`.

    Raises:
        UserError: as `numbered` does; and if the file cannot be written.
    """
    rows = (row for _, row in numbered(value, name, split))
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if not content:
        raise UserError(f"{name} is empty; give rows, each a dict of columns")
    path = folder / f"{name}-{digest(content, 12)}.jsonl"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror or error}; choose another output") from None
        write_bytes(path, content)
    return path


# ---- the rows of each form -----------------------------------------------------------------------


def _rows(value: Any, name: str, split: str) -> Iterable[Any]:
    kinds = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(value).__mro__}
    if ("pandas", "DataFrame") in kinds:
        return _of_frame(value, name)
    if ("datasets", "DatasetDict") in kinds:
        return _of_data_set(_split_of(value, name, split))
    if ("datasets", "Dataset") in kinds:
        return _of_data_set(value)
    if {("datasets", "IterableDataset"), ("datasets", "IterableDatasetDict")} & kinds:
        raise UserError(f"{name} is a stream, whose end nobody knows; take rows of it: list({name}.take(10_000))")
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return value
    hint = "; of columns make rows: datasets.Dataset.from_dict(…)" if isinstance(value, Mapping) else ""
    raise UserError(f"{name} is a {type(value).__name__}; it takes {FORMS}{hint}")


def _of_frame(frame: Any, name: str) -> Iterable[Any]:
    columns = list(frame.columns)
    if wrong := [column for column in columns if not isinstance(column, str)]:
        raise UserError(f"{name}: the column {shown(wrong[0])} has no name; give its columns names (prompt, chosen, …)")
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise UserError(f"{name} has the column {twice!r} twice")
    if named := [index for index in frame.index.names if index is not None]:
        logger.warning("%s: its index %s is not read; frame.reset_index() makes it a column", name, shown(named[0]))
    found: Iterable[Any] = frame.to_dict("records")
    return found


def _of_data_set(data: Any) -> Iterator[Row]:
    # Formats that a person has set (tensors, say) are views of the same cells.
    for batch in data.with_format(None).iter(batch_size=BATCH):
        yield from rows_of(batch)


def _split_of(data: Mapping[str, Any], name: str, split: str) -> Any:
    if split not in data:
        known = ", ".join(data)
        raise UserError(
            f"{name} has no split {split!r} but {known}; give one of them, such as {name}[{next(iter(data))!r}]"
        )
    if others := [other for other in data if other != split]:
        logger.warning("%s: its split %s is read, and not %s", name, split, ", ".join(others))
    return data[split]


# ---- cells ---------------------------------------------------------------------------------------


def _plain_rows(rows: Iterable[Any], name: str) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"{name}, row {number} is {shown(row, 40)}; a row is a dict of columns")
        if wrong := [column for column in row if not isinstance(column, str) or column == UNREADABLE]:
            raise UserError(f"{name}, row {number} has a column {shown(wrong[0], 40)}; columns go by names")
        yield {column: _cell(value, f"{name}, row {number}, column {column}") for column, value in row.items()}


def _cell(value: Any, where: str) -> Any:
    """Return what JSON holds of a cell, as the same cell of a file would be read."""
    value = plain(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if missing(value):
        return None
    if isinstance(value, (float, decimal.Decimal)):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _cell(part, where) for key, part in value.items()}
    if isinstance(value, list):
        return [_cell(part, where) for part in value]
    raise UserError(
        f"{where} holds a {type(value).__name__}, which is no text, number, list or dict; leave the column out"
    )
