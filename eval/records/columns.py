"""Columns of evaluation records, as tables ``[S, N]``: training seeds by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preflab.errors import UserError

Rows = Sequence[Mapping[str, Any]]  # of one training seed
NUMBER = (int, float, np.number, np.bool_)
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

    There is no other way to read numbers from records, and no figure is made of a part of a column.

    Raises:
        UserError: if a value is missing where others are there, or is no finite number; with row and training seed.
        ValueError: if seeds have different numbers of rows.
    """
    values = [[row.get(name) for row in rows] for rows in seeds]
    if all(value is None for row in values for value in row):
        return None
    for seed, rows in enumerate(values):
        for at, value in enumerate(rows):
            if not isinstance(value, NUMBER) or not np.isfinite(value):
                number = seeds[seed][at].get("row", at)
                raise UserError(
                    f"{name} of row {number} (training seed {seed}) is {'missing' if value is None else repr(value)}, "
                    "and no figure is made of the rest; NaN and inf often come from float16: evaluate in float32 or "
                    "bfloat16"
                )
    return np.array(values, dtype=np.float64)


def kl_to_reference(seeds: Sequence[Rows]) -> NDArray[np.float64] | None:
    """Return KL(π‖π_ref) by the samples' columns, ``[S, N]``, nats: the estimate that all figures go by.

    The next-token KL summed over a response (``kl``) where there is one, which varies less; else the ``log_ratio``, of
    policies that are known by whole responses alone. None where neither is known, or there is no reference.

    Raises:
        UserError, ValueError: as `column`.
    """
    summed = column(seeds, "kl")
    return column(seeds, "log_ratio") if summed is None else summed


def needed(seeds: Sequence[Rows], name: str) -> NDArray[np.float64]:
    """Return one column as ``[S, N]`` that must be there.

    Raises:
        UserError: as `column`, and if no row has it.
    """
    values = column(seeds, name)
    if values is None:
        raise UserError(f"no row has {name!r}; evaluate again, with what gives it")
    return values
