"""What ``comparison.json`` says of a judge held against verdicts of people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preflab.eval.records.figures import Figure


@dataclass(frozen=True, kw_only=True)
class HumanPair:
    """Two methods of whose answers people judged some.

    Attributes:
        first: a method.
        second: the other.
        verdicts: answers to a prompt, of one training seed each, that people judged; equal answers are not among them.
        seeds: training seeds of which people judged enough; the three win rates are about these alone.
        of_seeds: training seeds that there are.
        judged: win rate of the first, by the judge alone; null where people judged too few answers of every seed.
        human: by people alone, their verdicts standing for all prompts; null as above.
        corrected: by both: the judge's, corrected by people (prediction-powered inference); null as above.
        weight: how much the judge's verdicts count in it, 0 to 1; null as above.
    """

    first: str
    second: str
    verdicts: int
    seeds: int
    of_seeds: int
    judged: Figure | None
    human: Figure | None
    corrected: Figure | None
    weight: float | None

    @property
    def better(self) -> str | None:
        """Which is better by judge and people together: the interval of this pair alone leaves an even rate out."""
        if self.corrected is None or self.corrected.low <= 0.5 <= self.corrected.high:
            return None
        return self.first if self.corrected.low > 0.5 else self.second


@dataclass(frozen=True, kw_only=True)
class Humans:
    """A judge held against verdicts of people on some of the answers.

    Attributes:
        name: of the verdicts.
        verdicts: pairs of answers that people judged.
        unmatched: those of them that are no answers of two methods here.
        annotators: how far people agree among themselves: ``observed``, ``corrected`` for chance, both with the ends of
            their intervals, ``pairs`` with two or more ``annotators``; null where there are none.
        agreement: share of their verdicts that are the judge's too: first, second or tie; null where there are none.
        kappa: the same, corrected for what chance alone would give; null where that is all.
        pairs: every two methods of whose answers people judged some.
    """

    name: str
    verdicts: int
    unmatched: int
    annotators: Mapping[str, Any] | None
    agreement: Figure | None
    kappa: Figure | None
    pairs: tuple[HumanPair, ...]
