"""What was met in the rows of one source and must be said: bad rows, columns that were not read, what was assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from preflab.data.cells import shown
from preflab.data.columns import LOOKS_LIKE
from preflab.data.layouts import BESIDE, Layout
from preflab.data.reading import RowError
from preflab.data.shortening import Lost


@dataclass(frozen=True)
class BadRows:
    """Unusable rows: reason to the row numbers it was given for, and to the first value that was wrong."""

    reasons: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many rows are bad."""
        return sum(map(len, self.reasons.values()))

    def add(self, number: int, error: RowError) -> None:
        """Note why a row is bad."""
        reason = str(error)
        self.reasons.setdefault(reason, []).append(number)
        if error.value is not None:
            self.values.setdefault(reason, shown(error.value))

    def summary(self, shown: int = 5) -> str:
        """Return one readable line, with the first `shown` row numbers of each reason."""
        parts = []
        for reason, numbers in sorted(self.reasons.items()):
            first = ", ".join(map(str, numbers[:shown])) + (", …" if len(numbers) > shown else "")
            value = f", such as {self.values[reason]}" if reason in self.values else ""
            parts.append(f"{reason}{value}: {len(numbers)} (row{'s' if len(numbers) > 1 else ''} {first})")
        return "; ".join(parts) or "no bad rows"


@dataclass
class Seen:
    """What was met in the rows of one source and must be said of them.

    Attributes:
        layouts: how many rows are of each.
        names: all columns.
        named: fields of ``--columns`` for which a row had a value.
        unread: columns that hold something and were not read, with the number of rows.
        messages: rows that are messages.
        texts: rows that are text.
        bare: of these, rows that no chat template wrote.
        notes: what must be said of some rows, with their number.
        grouped: rows that name their group.
        lost: rows of messages that were too long, by what they lost for it.
    """

    layouts: Counter[Layout] = field(default_factory=Counter)
    names: dict[str, None] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    unread: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    texts: int = 0
    bare: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    grouped: int = 0
    lost: Counter[Lost] = field(default_factory=Counter)

    def lines(self, columns: Collection[str] = ()) -> list[str]:
        """Return one line for each thing that must be said; how a layout is read, if no field of `columns` says it."""
        assumed = [layout for layout in self.layouts if layout.note and not {*layout.needs} & {*columns}]
        found = [f"{layout.name}: {layout.note}" for layout in assumed]
        if len({layout.name for layout in self.layouts}) > 1:
            counts = ", ".join(f"{layout.name} ({count})" for layout, count in self.layouts.most_common())
            found.append(f"rows of several layouts, each read by its own columns: {counts}")
        if self.unread:
            found.append("columns not read: " + ", ".join(map(meant, self.unread)))
        found += [f"{count} {note}" for note, count in self.notes.items()]
        return found


def meant(name: str) -> str:
    """Return the name of a column that was not read, with what it may mean."""
    like = LOOKS_LIKE.get(name.lower())
    if like == "margin":
        return f"{name} (a score on a scale of its own; a difference in units of reward goes into margin)"
    if name in BESIDE:
        return f"{name} (text cannot have it)"
    return f"{name} (if it is the {like}: --columns {like}={name})" if like else name
