"""The frontier as one record."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from preflab.eval.frontier.attained import attainable, under_the_line
from preflab.eval.frontier.best_of_n import best_of_n_curve
from preflab.eval.frontier.matching import Point, equal_kl, matched, matched_differences
from preflab.eval.frontier.oracle import Oracle
from preflab.eval.frontier.tables import as_table
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import Frontier, FrontierPoint
from preflab.eval.statistics import interval


def frontier(
    points: Sequence[Point],
    oracle: Oracle | None = None,
    reference_rewards: ArrayLike | None = None,
    *,
    origin: Sequence[Point] = (),
    paired: bool = False,
) -> Frontier:
    """Return the record ``frontier`` of comparison.json.

    Args:
        points: every method's settings, all of the same N prompts.
        oracle: the line of these prompts; without one there is no share of the attainable either.
        reference_rewards: ``[N, M]`` gold rewards of the reference's samples, for the best-of-n curve.
        origin: where a method's curve begins, of methods whose points lie on their way from there: the reference.
        paired: whether seed s of one method shares its replication with seed s of another.

    Raises:
        ValueError: if tables are not of the same prompts, or a point's are not of the same seeds.
    """
    return Frontier(
        points=tuple(_point(point, oracle) for point in points),
        oracle=None if oracle is None else oracle.line(),
        best_of_n=() if reference_rewards is None else tuple(best_of_n_curve(reference_rewards)),
        matched=tuple(matched([*origin, *points])),
        matched_differences=tuple(matched_differences([*origin, *points], paired=paired)),
        equal_kl=tuple(equal_kl([*origin, *points], paired=paired)),
    )


def _point(point: Point, oracle: Oracle | None) -> FrontierPoint:
    def mean(values: ArrayLike) -> Figure:
        return Figure.of(interval(as_table(values, point.method), rate=False))

    share = None if oracle is None else attainable(point.gold_reward, point.kl, oracle)
    return FrontierPoint(
        method=point.method,
        setting=dict(point.setting),
        kl=mean(point.kl),
        gold_reward=mean(point.gold_reward),
        proxy_reward=None if point.proxy_reward is None else mean(point.proxy_reward),
        attainable=None if share is None else Figure.of(share),
        under_the_line=None if oracle is None else under_the_line(point.gold_reward, point.kl, oracle),
    )
