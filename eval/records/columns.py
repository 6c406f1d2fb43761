"""Columns of evaluation records, as tables ``[S, N]``: training seeds by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preflab.errors import UserError

Rows = Sequence[Mapping[str, Any]]  # of one training seed
UNDECIDED = 0.5  # the share of labels (`preference`) by which neither response of a pair is the better one


def check_aligned(seeds: Sequence[Rows], key: str) -> None:
    """See that every seed has the same rows in the same order, as far as their `key` says.

    Raises:
        ValueError: if they differ.
    """
    first = [row.get(key) for row in seeds[0]]
    for seed, rows in enumerate(seeds):
        if [row.get(key) for row in rows] != first:
            raise ValueError(
                f"training seeds 0 and {seed} were evaluated on different rows ({len(first)} and {len(rows)}, by "
                f"{key!r}); evaluate all seeds of a method with the same settings"
            )


def prompt_groups(rows: Rows) -> NDArray[np.int64] | None:
    """Return ``[N]`` which prompt each held-out pair is of, numbered by first sight; None where none has two pairs.

    Records that do not say it (``group``) are read as if each pair had a prompt of its own.
    """
    numbers: dict[Any, int] = {}
    keys = [at if row.get("group") is None else str(row["group"]) for at, row in enumerate(rows)]
    found = [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(found, dtype=np.int64) if len(numbers) < len(found) else None


def column(seeds: Sequence[Rows], name: str) -> NDArray[np.float64] | None:
    """Return one column as ``[S, N]``; None where no row has it.

    Raises:
        UserError: if a value is missing where others are there, or is not finite; with the row's number in the data.
    """
    values = [[row.get(name) for row in rows] for rows in seeds]
    if all(value is None for row in values for value in row):
        return None
    for seed, rows in enumerate(values):
        for at, value in enumerate(rows):
            if value is None or not np.isfinite(value):
                number = seeds[seed][at].get("row", at)
                raise UserError(
                    f"{name} of row {number} (training seed {seed}) is {'missing' if value is None else value}, and no "
                    "figure is made of the rest; NaN and inf often come from float16: evaluate in float32 or bfloat16"
                )
    return np.array(values, dtype=np.float64)
