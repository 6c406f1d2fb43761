"""A judge held against people: how far they agree, and win rates by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import Decide, Games, head_to_head, models_of
from preflab.eval.metrics.win_rate import WIN_RATE
from preflab.eval.records.figures import Figure
from preflab.eval.records.humans import HumanPair, Humans
from preflab.eval.records.records import Records
from preflab.eval.statistics import FEWEST_VERDICTS, Agreement, agreement, prediction_powered

Array = NDArray[np.float64]


class Panel(Protocol):
    """People who judged some answers."""

    def __call__(self, first: Records, second: Records) -> Array:
        """Return who answered better, ``[N]``, as `eval.comparison.contests.Decide` does; NaN where nobody said."""
        ...

    def report(self) -> dict[str, Any]:
        """Return ``judge`` (their name), ``verdicts`` and ``unmatched`` pairs, and ``agreement`` among themselves."""
        ...


class Met:
    """What a judge and people said of two methods' answers.

    Attributes:
        first: a method.
        second: the other.
        judged: ``[S, N]`` the judge's verdicts, NaN where there is none.
        human: ``[S, N]`` those of people, NaN where there is none, or both answers are equal.
        alike: ``[S, N]`` where both answers are equal.
    """

    def __init__(self, first: Contestant, second: Contestant, judged: Array, people: Decide) -> None:
        self.first, self.second, self.judged = first, second, judged
        self.alike = head_to_head(first, second, _alike) == 1.0
        self.human = np.where(self.alike, np.nan, head_to_head(first, second, people))

    @property
    def both(self) -> NDArray[np.bool_]:
        """Where both said something, ``[S, N]``."""
        return np.isfinite(self.judged) & np.isfinite(self.human)


def hold_against(contestants: Sequence[Contestant], games: Games, people: Panel) -> Humans:
    """Return how far a judge agrees with people, and every pair's win rate by both.

    Args:
        contestants: the methods.
        games: what the judge says of every two of them, as `eval.comparison.contests.play` returns it.
        people: who judged some of the same answers.
    """
    every = [Met(*pair, games[pair[0].name, pair[1].name], people) for pair in combinations(contestants, 2)]
    met = [one for one in every if one.both.any()]
    found = _agreement(met) if met else None
    report = people.report()
    return Humans(
        name=report["judge"],
        verdicts=report["verdicts"],
        unmatched=report["unmatched"],
        annotators=report["agreement"],
        agreement=found and Figure.of(found.share),
        kappa=found.kappa and Figure.of(found.kappa) if found else None,
        pairs=tuple(map(_corrected, met)),
    )


def _agreement(met: Sequence[Met]) -> Agreement:
    """Return how far judge and people agree on all that both judged; answers to one prompt are not independent."""
    judged, human = (
        np.concatenate(said) for said in zip(*((m.judged[m.both], m.human[m.both]) for m in met), strict=True)
    )
    return agreement(judged, human, np.concatenate([np.nonzero(one.both)[1] for one in met]))


def _corrected(met: Met) -> HumanPair:
    """Return a pair's win rates: by the judge, by people, by both; of the seeds of which people judged enough."""
    seeds = _judged_enough(met.both)
    decided = np.isfinite(met.judged[seeds]).all(0)  # a judge that compares may leave a prompt open
    seeds = seeds[_judged_enough(met.both[seeds][:, decided])]
    pair = HumanPair(
        first=met.first.name,
        second=met.second.name,
        verdicts=int(met.both.sum()),
        seeds=len(seeds),
        of_seeds=len(met.judged),
        judged=None,
        human=None,
        corrected=None,
        weight=None,
    )
    if not len(seeds):
        return pair
    judged, human, alike = (x[seeds][:, decided] for x in (met.judged, met.human, met.alike))
    models = models_of(met.first, met.second, seeds)
    both = prediction_powered(judged, human, alike=alike, models=models)
    # A judge without an opinion leaves people alone.
    alone = prediction_powered(np.full_like(judged, 0.5), human, alike=alike, models=models)
    rows = np.stack([judged[models == model].mean(0) for model in np.unique(models)])
    return replace(
        pair,
        judged=Figure.of(WIN_RATE.estimate(rows)),
        human=Figure.of(alone.estimate),
        corrected=Figure.of(both.estimate),
        weight=both.weight,
    )


def _judged_enough(both: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rows ``[S, N]`` of which people judged enough for a seed's own rectifier."""
    return np.flatnonzero(both.sum(1) >= FEWEST_VERDICTS)


def _alike(first: Records, second: Records) -> Array:
    """Return where two evaluations hold the same answer, but for white space around it, ``[N]``."""
    both = zip(first.samples, second.samples, strict=True)
    return np.array([a["response"].strip() == b["response"].strip() for a, b in both], dtype=np.float64)
