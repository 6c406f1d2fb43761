"""Which columns of the data a reward reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from preflab.errors import UserError, near_misses
from preflab.rewards.functions import import_reward
from preflab.rewards.specification import parse_reward


class Wanted(NamedTuple):
    """Columns of the data that a reward reads, by name.

    Attributes:
        required: those that it cannot do without.
        optional: those that it takes where they are.
        every: whether it takes whatever there is.
    """

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    every: bool = False

    def __bool__(self) -> bool:
        return bool(self.required or self.optional or self.every)

    def pick(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the wanted columns that a row has."""
        if self.every:
            return dict(row)
        return {name: row[name] for name in self.required | self.optional if name in row}

    def check(self, there: Collection[str], where: str) -> None:
        """See that the required columns are there.

        Args:
            there: names of the columns of a row.
            where: how messages call it.

        Raises:
            UserError: for one that is missing, with near misses.
        """
        for name in sorted(self.required - set(there)):
            raise UserError(f"--reward asks for the column {name!r}, and {where} has none{near_misses(name, there)}")


def wanted_columns(reward: str | None) -> Wanted:
    """Return which columns ``--reward`` reads; none where there is no reward, or it reads texts alone.

    Raises:
        UserError: if a function of it cannot be imported, or takes no response.
    """
    signatures = [import_reward(part.source)[1] for part in parse_reward(reward) if part.is_function]
    required = frozenset[str]().union(*(signature.columns for signature in signatures))
    optional = frozenset[str]().union(*(signature.optional for signature in signatures)) - required
    return Wanted(required, optional, any(signature.every for signature in signatures))
