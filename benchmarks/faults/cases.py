"""A fault: the files it is made of, the command that meets it, and what is right to happen then."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Content = str | bytes | Callable[[Path], object]
"""What a file holds, or what makes it at the path it is given."""

CANARY = "canary"
"""The file that code which must not run leaves in the case's folder."""


class Refused(NamedTuple):
    """Exit status 2 and one line that names the culprit.

    Attributes:
        parts: all of which stand in that line; ``a|b``: either. Upper and lower case count alike.
    """

    parts: tuple[str, ...]


class Accepted(NamedTuple):
    """Exit status 0; what was odd is said, or makes no difference.

    Attributes:
        says: parts, as of `Refused`, of one line of the output; none: nothing need be said.
        like: the case whose splits these are, row by row; None: not looked at.
        groups: number of groups over all splits; None: not looked at.
    """

    says: tuple[str, ...] = ()
    like: str | None = None
    groups: int | None = None


Right = Refused | Accepted


@dataclass(frozen=True)
class Case:
    """One malformed (or odd) input.

    Attributes:
        name: ``area/kind/variant``; no two cases share one.
        command: recipe and options; ``kit/`` is the folder of `benchmarks.faults.kit`. ``{…}`` is filled from what
            `make` returns.
        right: what may happen; any one of them will do.
        make: writes the case's files into its folder, which is also the current one.
        banned: strings that no output may hold as they stand.
        environment: variables added.
    """

    name: str
    command: tuple[str, ...]
    right: tuple[Right, ...]
    make: Callable[[Path], Mapping[str, str] | None] = lambda folder: None
    banned: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def area(self) -> str:
        """What the fault is in, such as data or configs."""
        return self.name.split("/")[0]


def words(command: str) -> tuple[str, ...]:
    """Return the parts of a command line in which nothing is quoted."""
    return tuple(command.split())


def refused(*parts: str) -> tuple[Right, ...]:
    """Return the demand that the input is refused in one line with these parts."""
    return (Refused(parts),)


def said(*parts: str, like: str | None = None) -> tuple[Right, ...]:
    """Return the demand that the input is used and one line has these parts."""
    return (Accepted(parts, like),)


def files(content: Mapping[str, Content]) -> Callable[[Path], None]:
    """Return what writes files, by path in the case's folder."""

    def make(folder: Path) -> None:
        for name, what in content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(what):
                what(path)
            else:
                path.write_bytes(what.encode("utf-8", "surrogatepass") if isinstance(what, str) else what)

    return make


def lines(rows: Iterable[Any]) -> str:
    """Return JSON lines; NaN and lone surrogates stand as Python's json writes them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Sequence[Row]) -> Callable[[Path], None]:
    """Return what writes rows in the format of the path's suffix."""

    def write(path: Path) -> None:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            names = list(dict.fromkeys(name for row in rows for name in row))
            pyarrow.parquet.write_table(pyarrow.table({n: [row.get(n) for row in rows] for n in names}), path)
        elif path.suffix == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
                writer.writeheader()
                writer.writerows(rows)
        else:
            text = json.dumps(list(rows)) if ".json" in path.suffixes and ".jsonl" not in path.name else lines(rows)
            path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

    return write


def distinct(cases: Iterable[Case]) -> list[Case]:
    """Return the cases, seeing to it that no name stands for two."""
    found: dict[str, Case] = {}
    for case in cases:
        if case.name in found:
            raise ValueError(f"two cases are called {case.name}")
        found[case.name] = case
    return list(found.values())


def drawn(items: Sequence[Any], count: int, seed: str) -> list[Any]:
    """Return so many of the items, in their order; the same seed draws the same ones."""
    if count >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]
