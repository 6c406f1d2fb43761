"""How good methods are by how many preferences they learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
from preflab.eval.metrics.reward import GOLD
from preflab.eval.metrics.win_rate import WIN_RATE
from preflab.eval.records.figures import Method
from preflab.eval.records.learning import LearningPoint


class Learnt(NamedTuple):
    """A method on part of the preferences.

    Attributes:
        fraction: of the preferences.
        preferences: how many it, or the reward model that it maximises, learns from (pairs, rankings or single
            responses), mean over seeds.
        contestant: the method, evaluated.
    """

    fraction: float
    preferences: float
    contestant: Contestant


def learning_points(learnt: Sequence[Learnt], rows: Sequence[Method]) -> tuple[LearningPoint, ...]:
    """Return the points of every method's learning curve, by method in the order given, from few to many.

    Args:
        learnt: methods on parts of the preferences.
        rows: the figures of each.
    """
    order = list(dict.fromkeys(one.contestant.name for one in learnt))
    points = [
        LearningPoint(
            method=one.contestant.name,
            fraction=one.fraction,
            preferences=one.preferences,
            gold_reward=row.figures.get(GOLD.key),
            win_rate=row.figures.get(WIN_RATE.key),
            heldout_accuracy=row.figures.get(HELDOUT_ACCURACY.key),
        )
        for one, row in zip(learnt, rows, strict=True)
    ]
    return tuple(sorted(points, key=lambda point: (order.index(point.method), point.fraction)))
