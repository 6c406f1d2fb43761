"""What ``comparison.json`` says of gold reward against KL: the frontier, and the laws of over-optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from preflab.eval.records.figures import Figure


@dataclass(frozen=True, kw_only=True)
class UnderTheLine:
    """Whether a point lies on or under the best attainable line, as every policy must.

    Attributes:
        kl: nats.
        excess: gold reward less that of the line.
        holds: whether the interval of the excess reaches down to 0; null where the line is not trusted.
    """

    kl: float
    excess: Figure
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """One setting of a method.

    Attributes:
        method: its name.
        setting: what a sweep changed; empty for the configured one.
        kl: to the reference, nats.
        gold_reward: of the judge.
        proxy_reward: of the reward model that methods are trained against.
        attainable: share of the gold reward that any policy could have gained at this KL.
        under_the_line: against the best attainable line.
    """

    method: str
    setting: Mapping[str, Any]
    kl: Figure
    gold_reward: Figure
    proxy_reward: Figure | None
    attainable: Figure | None
    under_the_line: UnderTheLine | None


@dataclass(frozen=True, kw_only=True)
class OracleLine:
    """The best attainable gold reward at each KL.

    Attributes:
        source: ``exact`` where every response is enumerated, else ``reference samples``.
        kl: nats.
        reward: at these KLs.
        low: lower end of its 95 % band.
        high: upper end of its 95 % band.
        ess: effective samples of each prompt at these KLs; empty where it is exact.
        trusted_kl: where it is cut; null where it is exact.
        tolerance: its largest error up to there, as a share of the gain.
    """

    source: str
    kl: tuple[float, ...]
    reward: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    ess: tuple[float, ...]
    trusted_kl: float | None
    tolerance: float | None


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """What the best of n samples of the reference reaches.

    Attributes:
        n: samples.
        kl: log n − (n − 1)/n, nats.
        gold_reward: mean over prompts.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
    """

    n: int
    kl: float
    gold_reward: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A method's gold reward at a KL that all methods reach.

    Attributes:
        kl: nats.
        method: its name.
        gold_reward: read between its settings.
    """

    kl: float
    method: str
    gold_reward: Figure


@dataclass(frozen=True, kw_only=True)
class MatchedDifference:
    """Two methods at a KL that both reach.

    Attributes:
        kl: nats.
        first: a method.
        second: the other.
        difference: in gold reward, first minus second.
        p: not corrected for the number of rows.
    """

    kl: float
    first: str
    second: str
    difference: Figure
    p: float


@dataclass(frozen=True, kw_only=True)
class EqualKl:
    """Two methods over the KLs that both reach.

    Attributes:
        first: a method.
        second: the other.
        low_kl: nats, where the range begins.
        high_kl: nats, where it ends.
        difference: in gold reward, first minus second, mean over the range, evenly in √KL.
        p: two-sided, of no difference in that mean.
        p_adjusted: corrected over all pairs (Holm).
        verdict: which is better over the range: ``first``, ``second`` or ``none``.
        band: the difference at KLs of the range; the intervals hold all at once (Bonferroni).
    """

    first: str
    second: str
    low_kl: float
    high_kl: float
    difference: Figure
    p: float
    p_adjusted: float
    verdict: Literal["first", "second", "none"]
    band: tuple[MatchedDifference, ...]


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Gold reward against KL.

    Attributes:
        points: every setting of every method.
        oracle: the best attainable line.
        best_of_n: the curve of best-of-n.
        matched: methods at equal KL.
        matched_differences: every two methods at equal KL.
        equal_kl: every two methods over the KLs that both reach.
    """

    points: tuple[FrontierPoint, ...]
    oracle: OracleLine | None
    best_of_n: tuple[BestOfN, ...]
    matched: tuple[Matched, ...]
    matched_differences: tuple[MatchedDifference, ...]
    equal_kl: tuple[EqualKl, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Where a law of over-optimisation turns.

    Attributes:
        d: √KL.
        gold: the gold reward there.
        reached: whether a point lies past it.
    """

    d: Figure
    gold: float
    reached: bool


@dataclass(frozen=True, kw_only=True)
class LawPoint:
    """A moment of training, or a setting of a sweep.

    Attributes:
        step: mean over seeds; null over settings.
        d: √KL.
        kl: nats.
        gold: gold reward.
        proxy: proxy reward.
    """

    step: float | None
    d: float
    kl: Figure
    gold: Figure
    proxy: Figure | None


@dataclass(frozen=True, kw_only=True)
class Law:
    """How a method's gold reward R, over that of the reference, bends with d = √KL (arXiv 2210.10760).

    Attributes:
        over: what the points are of: training (``--snapshots``), the start and the end included, or else settings
            (``--sweep``).
        law: ``rl``: R = d(α − β log d); ``bon``: R = d(α − βd).
        alpha: α.
        beta: β.
        r2: R² about 0.
        peak: where the law turns; null where it does not.
        note: why there is no law.
        reference_reward: the gold reward of the reference.
        points: in the order of training, or of d.
    """

    over: Literal["training", "settings"]
    law: Literal["rl", "bon"]
    alpha: Figure | None
    beta: Figure | None
    r2: float | None
    peak: Peak | None
    note: str | None
    reference_reward: float
    points: tuple[LawPoint, ...]
