"""What a metric says of each figure that it gives, once: pipeline, tables, page and documentation read it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics import Estimate, interval

Array = NDArray[np.float64]

Of = Literal["games", "samples", "heldout", "scores", "logits"]
"""What the rows are that a metric is of.

games: a method's answers against the baseline's. Columns ``games`` (1 won, 0.5 tied, 0 lost) and ``longer`` (tokens
    that the method's answer has more), ``[S, D, N]`` against D draws of the baseline.
samples: a policy's answers, with the columns of `eval.records.records.Records.samples`.
heldout: held-out pairs, with the columns of `Records.preferences` and ``undecided`` (neither response is better).
scores: the same; figures of these stand under ``preferences`` and not among the method's own.
logits: held-out pairs as probabilities. Columns ``logit`` and ``preference`` (share of labels for the chosen one).
"""

OF_METHOD: tuple[Of, ...] = ("games", "samples", "heldout")
"""Whose figures stand among a method's own."""

Place = Literal["table", "ranking", "generations", "preferences", "sampling"]
"""Where a figure has a column: in the table of terminal and papers, and in four tables of the page."""


def fixed(value: float, digits: int = 2) -> str:
    """Print with `digits` decimals, fewer for large numbers, and never "-0.00"."""
    size = abs(value)
    digits = 0 if size >= 1000 else max(digits - 1, 0) if size >= 100 else digits
    return f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float) -> str:
    """Print a share as a percentage, without the sign."""
    return fixed(100 * value, 1)


def one(value: float) -> str:
    """Print with one decimal."""
    return fixed(value, 1)


def three(value: float) -> str:
    """Print with three decimals."""
    return fixed(value, 3)


class Unit(NamedTuple):
    """What a figure is counted in.

    Attributes:
        name: in words.
        number: prints a figure, without its unit.
        sign: what stands behind the printed number.
    """

    name: str
    number: Callable[[float], str] = fixed
    sign: str = ""


PERCENT = Unit("share", percent, " %")


class Column(NamedTuple):
    """A column of estimates: key in the dict, heading, and how to print one number."""

    key: str
    heading: str
    number: Callable[[float], str]
    unit: str = ""


@dataclass(frozen=True)
class Measure:
    """A mean of values, one a row.

    Attributes:
        key: its name in ``comparison.json``.
        what: one line of explanation.
        values: gives one seed's values ``[N]`` from the columns that it `reads`; pure.
        reads: names of columns, in the order of the arguments of `values`.
        unit: what it is counted in, and how it is printed.
        higher_is_better: None where neither direction is better by itself.
        heading: of its column.
        shown: where it has a column.
        part: where the estimate stands one level deeper in ``comparison.json``, under this name.
        result: what the metric's `compute` calls it; by default its key.
        rate: whether values are a rate, see `eval.statistics.interval`.
        bounds: what the figure cannot lie below and above, where the interval of a mean might.
        fewest: rows that it takes.
        overflows: whether values that no float holds make it null, in place of an error.
    """

    key: str
    what: str
    values: Callable[..., Any]
    reads: tuple[str, ...]
    unit: Unit
    higher_is_better: bool | None = None
    heading: str = ""
    shown: tuple[Place, ...] = ()
    part: str = ""
    result: str = ""
    rate: bool = False
    bounds: tuple[float, float] | None = None
    fewest: int = 1
    overflows: bool = False

    @property
    def name(self) -> str:
        """What `compute` calls it."""
        return self.result or self.key

    @property
    def column(self) -> Column:
        """How tables show it."""
        return Column(self.key, self.heading, self.unit.number, self.unit.sign)

    def given(self, columns: Mapping[str, Any]) -> list[Any]:
        """Return those columns that `values` takes; what an optional argument is for may be missing."""
        return [columns[name] for name in self.reads if name in columns]

    def table(self, *columns: Sequence[Any]) -> Array:
        """Return the values of all seeds, ``[S, N]``; of several draws, ``[S, D, N]``, the means over these."""
        values = np.stack([self.values(*rows) for rows in zip(*columns, strict=True)])
        return np.asarray(values.reshape(len(values), -1, values.shape[-1]).mean(1))

    def estimate(self, values: ArrayLike, *, level: float = 0.95, groups: ArrayLike | None = None) -> Estimate:
        """Return the mean of values ``[S, N]`` or ``[N]`` with its interval, cut to what the figure can be.

        Equal values of whatever lies between 0 and 1 have a rate's interval: their number is all there is to go by.
        """
        rate = self.rate or (self.bounds == (0.0, 1.0) and np.ptp(values) == 0.0)
        estimate = interval(values, level=level, rate=rate, groups=groups)
        return estimate if self.bounds is None else within(estimate, *self.bounds)

    def summary(self, *columns: Sequence[Any], groups: ArrayLike | None = None) -> Any:
        """Return the figure as ``comparison.json`` has it: an `Estimate`, or null.

        Args:
            columns: what it `reads`, each by training seeds.
            groups: ``[N]`` which prompt each row is of; None: each of its own.
        """
        values = self.table(*columns)
        if self.overflows:
            with np.errstate(over="ignore", invalid="ignore"):
                known = np.isfinite(values.var())  # its square overflows before it does
            if not known:
                return self.missing()
        found = self.estimate(values, groups=groups).as_dict()
        return {self.part: found} if self.part else found

    def missing(self) -> Any:
        """Return what stands in place of a figure that is not known."""
        return None


@dataclass(frozen=True)
class Whole(Measure):
    """A measure that is no mean of values, or has parts of its own.

    Its `values` gives the figure itself, JSON-ready, from the columns of all seeds and the rows' ``groups``.

    Attributes:
        absent: makes what stands in its place where it is not known.
    """

    absent: Callable[[], Any] = lambda: None

    def summary(self, *columns: Sequence[Any], groups: ArrayLike | None = None) -> Any:
        """Return the figure as ``comparison.json`` has it; arguments as those of `Measure.summary`."""
        return self.values(*columns, groups=groups)

    def missing(self) -> Any:
        """Return what stands in place of a figure that is not known."""
        return self.absent()


def summarise(
    measures: Iterable[Measure], columns: Mapping[str, Any], groups: ArrayLike | None = None
) -> dict[str, Any]:
    """Return the figures of measures by key, as ``comparison.json`` has them.

    Args:
        measures: which.
        columns: each by training seeds, ``[S, N]`` or ``[S, D, N]``. One that reads others is missing, and so is
            one that takes more rows.
        groups: ``[N]`` which prompt each row is of; None: each of its own.
    """
    return {measure.key: _summarised(measure, columns, groups) for measure in measures}


def _summarised(measure: Measure, columns: Mapping[str, Any], groups: ArrayLike | None) -> Any:
    read = measure.given(columns)
    known = len(read) == len(measure.reads) and np.shape(read[0])[-1] >= measure.fewest
    return measure.summary(*read, groups=groups) if known else measure.missing()


def within(estimate: Estimate, lowest: float, highest: float) -> Estimate:
    """Return the estimate with its interval cut to what the statistic can be."""
    return estimate._replace(low=max(lowest, estimate.low), high=min(highest, estimate.high))
