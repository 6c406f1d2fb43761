"""Which columns of the data a reward reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from preflab.errors import UserError, near_misses
from preflab.rewards.calls import import_reward
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

    @property
    def names(self) -> frozenset[str] | None:
        """The columns to carry along; None: all that mean nothing else."""
        return None if self.every else self.required | self.optional

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
