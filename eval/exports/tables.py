"""Tables of evaluations, and files of rows, as what is exported begins with. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preflab.data.reading import UNREADABLE, read_rows
from preflab.errors import UserError

Row = Mapping[str, Any]

NO_SUBSET = "all"
"""What rows are of that name no subset."""


def read_table(source: str, table: str) -> list[dict[str, Any]]:
    """Read a table of an evaluation's folder, or any file of rows.

    Raises:
        UserError: if it is not there, or a line of it is no JSON object.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / table
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an evaluation's folder, or a file of rows")
    rows = read_rows(str(path))
    for number, row in rows:
        if UNREADABLE in row:
            raise UserError(f"{path}, row {number} is no JSON object")
    if not rows:
        raise UserError(f"{path} has no rows")
    return [row for _, row in rows]


def text_of(row: Row, name: str, number: int) -> str:
    """Return a text of a row.

    Raises:
        UserError: if it is missing, or something else.
    """
    value = row.get(name)
    if isinstance(value, str):
        return value
    found = "is missing" if value is None else f"is of type {type(value).__name__}"
    raise UserError(f"row {number}: {name!r} {found}; the row has {', '.join(sorted(row)) or 'nothing'}")


def pair_numbers(preferences: Sequence[Row]) -> list[int]:
    """Return the number of the pair that each row of an evaluation is of.

    Raises:
        UserError: if a row does not say it.
    """
    numbers = [row.get("row") for row in preferences]
    for at, number in enumerate(numbers, 1):
        if not isinstance(number, (int, float)) or isinstance(number, bool) or number % 1 != 0:
            raise UserError(f"row {at}: 'row' is {number!r}; it must be the number of a pair")
    return [int(number) for number in numbers if number is not None]
