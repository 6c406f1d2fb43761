"""Scores of a reward model, and of two beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from preflab.errors.terminal import one_line
from preflab.eval.python.results import frame

if TYPE_CHECKING:
    import pandas

    from preflab.eval.records.columns import Rows
    from preflab.eval.records.figures import Figure, Preferences


@dataclass(frozen=True, repr=False)
class ScoreResult:
    """What a reward model says of pairs, or of single responses.

    Attributes:
        name: the reward model's.
        rows: of each pair ``row`` (its number in the data), ``chosen_score``, ``rejected_score``, the lengths of both
            in the model's tokens, ``group`` and, where the data have them, ``subset`` and ``preference``; of a single
            response ``row``, ``score``, ``length`` and ``group``. Scores are the model's own, before any
            normalisation; differences are log-odds.
        data: a digest of the rows that were scored, as they were given.
        preferences: all that pairs say of the model (docs/report.md); None of single responses.
    """

    name: str
    rows: Rows
    data: str
    preferences: Preferences | None = field(default=None)

    @property
    def scores(self) -> list[Any]:
        """The scores in order: of pairs ``(chosen, rejected)`` each."""
        if self.preferences is None:
            return [row["score"] for row in self.rows]
        return [(row["chosen_score"], row["rejected_score"]) for row in self.rows]

    @property
    def accuracy(self) -> Figure | None:
        """Share of pairs whose chosen response has the higher score, ties as half; None of single responses."""
        from preflab.eval.metrics.preference_accuracy import ACCURACY

        return None if self.preferences is None else self.preferences.figures[ACCURACY.key]

    def __len__(self) -> int:
        """Return how many rows were scored."""
        return len(self.rows)

    def __str__(self) -> str:
        """Return what was scored, and how it went."""
        return "\n".join(map(one_line, self.lines()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from preflab.eval.report.notebook import lines_html

        return lines_html(self.lines())

    def lines(self) -> list[str]:
        """Return what was scored, how many are ranked as labelled, and what the scores are like."""
        if self.preferences is None:
            scores = self.scores
            mean = sum(scores) / len(scores)
            return [
                f"{self.name}: {len(scores)} responses, scores {min(scores):.2f} to {max(scores):.2f}, mean {mean:.2f}"
            ]
        found = [f"{self.name}: {share(self.accuracy)} of {len(self.rows)} pairs ranked as labelled"]
        for name, part in self.preferences.subsets.items():
            found.append(f"{name}: {share(part.accuracy)} of {part.n}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return name, digest and rows as plain values, and what pairs say of the model."""
        from preflab.eval.records.typed import to_json

        said = None if self.preferences is None else to_json(self.preferences)
        return {"name": self.name, "data": self.data, "rows": [dict(row) for row in self.rows], "preferences": said}

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a frame.

        Raises:
            UserError: where pandas is not installed.
        """
        return frame(self.rows)


@dataclass(frozen=True, repr=False)
class ScoreComparison:
    """Two reward models on the same pairs.

    Attributes:
        first: the name of one.
        second: the name of the other.
        accuracies: of each, in that order, on the pairs that both scored.
        difference: the first's accuracy less the second's, on the same pairs, with its interval; without ends where the
            pairs are too few for any.
        p: of no difference, by flips of the pairs' signs, never 0.
        detectable: the true difference that this many pairs would show four times in five.
        both: share of pairs that both rank as labelled, ties of a score as half of one.
        n: pairs.
        sentence: all of it in words.
    """

    first: str
    second: str
    accuracies: tuple[Figure, Figure]
    difference: Figure
    p: float
    detectable: float
    both: float
    n: int
    sentence: str

    def __str__(self) -> str:
        """Return the sentence."""
        return one_line(self.sentence)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from preflab.eval.report.notebook import lines_html

        return lines_html([self.sentence])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        figures = {"accuracies": [vars(one) for one in self.accuracies], "difference": vars(self.difference)}
        return {**vars(self), **figures}

    def to_pandas(self) -> pandas.DataFrame:
        """Return a frame of three rows, the two accuracies and their difference.

        Raises:
            UserError: where pandas is not installed.
        """
        rows: list[Mapping[str, Any]] = [vars(figure) for figure in (*self.accuracies, self.difference)]
        found: pandas.DataFrame = frame(rows, index=[self.first, self.second, "difference"])
        return found.drop(columns="note")


def share(figure: Figure | None) -> str:
    """Return a share with its interval in per cent."""
    from preflab.eval.report.table import SHARE, figure_text

    return " ".join(part for part in figure_text(figure, SHARE) if part)
