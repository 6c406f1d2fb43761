"""The frontier as one JSON-ready record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from eval.frontier.attained import attainable, under_the_line
from eval.frontier.best_of_n import best_of_n_curve
from eval.frontier.matching import Point, matched, matched_differences
from eval.frontier.oracle import Oracle
from eval.frontier.tables import as_table
from eval.statistics import interval


def frontier(
    points: Sequence[Point], oracle: Oracle | None = None, reference_rewards: ArrayLike | None = None
) -> dict[str, Any]:
    """Return the record ``frontier`` of comparison.json.

    Args:
        points: every method's settings, all of the same N prompts.
        oracle: the line of these prompts; without one, ``oracle``, ``attainable`` and ``under_the_line`` are null.
        reference_rewards: ``[N, M]`` gold rewards of the reference's samples, for the best-of-n curve.

    Returns:
        ``{points, oracle, best_of_n, matched, matched_differences}``. A point is ``{method, setting, kl,
        gold_reward, proxy_reward, attainable, under_the_line}``.

    Raises:
        ValueError: if tables are not of the same prompts, or a point's are not of the same seeds.
    """
    return {
        "points": [_point(point, oracle) for point in points],
        "oracle": None if oracle is None else oracle.as_dict(),
        "best_of_n": [] if reference_rewards is None else best_of_n_curve(reference_rewards),
        "matched": matched(points),
        "matched_differences": matched_differences(points),
    }


def _point(point: Point, oracle: Oracle | None) -> dict[str, Any]:
    def mean(values: ArrayLike | None) -> dict[str, Any] | None:
        return None if values is None else interval(as_table(values, point.method), rate=False).as_dict()

    share = None if oracle is None else attainable(point.gold_reward, point.kl, oracle)
    return {
        "method": point.method,
        "setting": dict(point.setting),
        "kl": mean(point.kl),
        "gold_reward": mean(point.gold_reward),
        "proxy_reward": mean(point.proxy_reward),
        "attainable": None if share is None else share.as_dict(),
        "under_the_line": None if oracle is None else under_the_line(point.gold_reward, point.kl, oracle),
    }
