"""Over-optimisation: how gold reward bends while a policy moves away from the reference (arXiv 2210.10760).

With d = sqrt(KL(π‖π_ref)) and R the gold reward over that of the reference, Gao et al. fit

    R(d) = d (α − β log d)      reinforcement learning      peak at d = exp(α/β − 1)
    R(d) = d (α − β d)          best-of-n                   peak at d = α / (2β)

Both are linear in α and β: least squares through the origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from preflab.eval.frontier.tables import Array, as_table, estimate
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import Law, LawPoint, Peak
from preflab.eval.statistics import interval

Form = Literal["rl", "bon"]

FEWEST = 3
"""Points at different KL above 0 that a fit takes: two coefficients, and one more to contradict them."""


def fit_overoptimisation(
    kl: Sequence[ArrayLike],
    gold_reward: Sequence[ArrayLike],
    reference_reward: ArrayLike,
    *,
    law: Form = "rl",
    proxy_reward: Sequence[ArrayLike] | None = None,
    steps: Sequence[float] | None = None,
) -> Law:
    """Fit one of the two laws to a method's P checkpoints, or settings, or n.

    Args:
        kl: P tables ``[S, N]`` (seeds x prompts) or ``[N]``, nats. Where points differ in their number of seeds,
            the first that all have count.
        gold_reward: P tables of the same shapes.
        reference_reward: ``[N]`` gold reward of the reference, the law's origin.
        law: ``rl`` or ``bon``.
        proxy_reward: P tables of the training reward model's scores, shown beside.
        steps: optimiser steps taken at each point, where the points are one training run's.

    Where the points do not determine the law, its figures are None and ``note`` says why: there are fewer than three at
    different KLs above 0; or β's interval holds both 0, a gain that goes straight on, and the β of a law with the
    same gain at the farthest point that turns right there. Points at almost equal KL give such an interval, however
    well any curve through the origin and that one spot fits them (R² is near 1).

    Returns:
        The law. Its ``peak`` is None where β is not above 0 within its interval, or what the peak's interval says is no
        number. Rewards of its points are as measured.

    Raises:
        ValueError: if tables are not of the same prompts, or a point's are not of the same seeds.
    """
    start = as_table(reference_reward, "reference_reward")
    kls, golds, proxies = _stacked(kl, gold_reward, proxy_reward, start.shape[1])
    d = np.sqrt(kls.mean((1, 2)).clip(0.0))
    used = d > 0
    points = (
        LawPoint(
            step=None if steps is None else float(steps[i]),
            d=float(d[i]),
            kl=_mean(kls[i]),
            gold=_mean(golds[i]),
            proxy=None if proxies is None else _mean(proxies[i]),
        )
        for i in np.argsort(d if steps is None else steps, kind="stable")
    )
    return Law(
        over="settings" if steps is None else "training",
        law=law,
        **_determined(kls[used], golds[used], start, law),
        reference_reward=float(start.mean()),
        points=tuple(points),
    )


def _determined(kls: Array, golds: Array, start: Array, law: Form) -> dict[str, Any]:
    """Return ``alpha, beta, r2, peak, note`` of points ``[P, S, N]`` at KLs above 0."""
    d = np.sqrt(kls.mean((1, 2)))
    refused: dict[str, Any] = dict.fromkeys(("alpha", "beta", "r2", "peak"))
    if (different := len(np.unique(d))) < FEWEST:
        return refused | {
            "note": f"{different} points have different KLs above 0, and two coefficients take {FEWEST} or more: "
            "evaluate more checkpoints, or sweep more settings"
        }
    (alpha, beta), (of_alpha, of_beta), r2 = _fit(kls, golds - start, law)
    slope, farthest = estimate(beta, of_beta), float(d.max())
    # Over d: alpha - beta log d, or alpha - beta d; the law that turns at the farthest point has there beta, or beta d.
    turning = alpha - beta * math.log(farthest) if law == "rl" else alpha / farthest - beta
    if slope.low < min(0.0, turning) and slope.high > max(0.0, turning):
        return refused | {
            "note": f"points at d = {d.min():.3g} to {farthest:.3g} do not tell a gain that goes straight on from one "
            "that turns at the last of them: they lie too close together, or gain too little"
        }
    turns = slope.low > 0
    return {
        "alpha": Figure.of(estimate(alpha, of_alpha)),
        "beta": Figure.of(slope),
        "r2": r2,
        "peak": _peak(alpha, beta, of_alpha, of_beta, law, farthest, float(start.mean())) if turns else None,
        "note": None,
    }


def _mean(table: Array) -> Figure:
    return Figure.of(interval(table, rate=False))


def _stacked(
    kl: Sequence[ArrayLike], gold: Sequence[ArrayLike], proxy: Sequence[ArrayLike] | None, prompts: int
) -> tuple[Array, Array, list[Array] | None]:
    """Return KLs and rewards ``[P, S, N]``, and the proxy's tables."""
    kls = [as_table(values, "kl", prompts) for values in kl]
    golds = [as_table(values, "gold_reward", prompts) for values in gold]
    proxies = None if proxy is None else [as_table(values, "proxy_reward", prompts) for values in proxy]
    if not len(kls) == len(golds) == (len(kls) if proxies is None else len(proxies)):
        raise ValueError("kl, gold_reward and proxy_reward must have one table a point each")
    if any(kl.shape != gold.shape for kl, gold in zip(kls, golds, strict=True)):
        raise ValueError("kl and gold_reward of a point differ in their number of seeds")
    seeds = min((len(table) for table in kls), default=1)
    kls, golds = [table[:seeds] for table in kls], [table[:seeds] for table in golds]
    proxies = proxies and [table[:seeds] for table in proxies]
    shape = (len(kls), -1, prompts)
    return np.array(kls).reshape(shape), np.array(golds).reshape(shape), proxies


def _fit(kls: Array, gains: Array, law: Form) -> tuple[tuple[float, float], tuple[Array, Array], float | None]:
    """Return α and β, each value's contribution to them ``[S, N]``, and R², from tables ``[P, S, N]``.

    With A the design, c = (α, β) and e = R − A c, moving a row a_p of A and its R_p moves c by
    (AᵀA)⁻¹ [a_p (δR_p − δa_p c) + δa_p e_p].
    """
    d, gain = np.sqrt(kls.mean((1, 2))), gains.mean((1, 2))
    bend, steepness = (xlogy(d, d), np.log(d) + 1.0) if law == "rl" else (d**2, 2.0 * d)
    design, slope = np.stack([d, -bend], axis=1), np.stack([np.ones_like(d), -steepness], axis=1)
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ design.T @ gain
    error = gain - design @ found
    moved_d = (kls - (d**2)[:, None, None]) / (2.0 * d)[:, None, None]
    moved_gain = gains - (slope @ found)[:, None, None] * moved_d
    parts = np.einsum("cp,psn->csn", inverse @ design.T, moved_gain)
    parts += np.einsum("cp,psn->csn", inverse @ slope.T * error, moved_d)
    total = float((gain**2).sum())
    r2 = 1.0 - float((error**2).sum()) / total if total > 0 else None
    return (float(found[0]), float(found[1])), (parts[0], parts[1]), r2


def _peak(
    alpha: float, beta: float, of_alpha: Array, of_beta: Array, law: Form, farthest: float, start: float
) -> Peak | None:
    """Return where the law turns. Its interval is made for log d, as d is above 0 and skewed."""
    if law == "rl":
        log_d, parts = alpha / beta - 1.0, (of_alpha - alpha / beta * of_beta) / beta
    elif alpha > 0:
        log_d, parts = math.log(alpha / (2.0 * beta)), of_alpha / alpha - of_beta / beta
    else:
        return None
    place = estimate(log_d, parts)
    if not -700 < place.low <= place.high < 700:
        return None
    low, d, high = (math.exp(value) for value in (place.low, log_d, place.high))
    gain = beta * d if law == "rl" else alpha * d / 2.0
    found = place._replace(mean=d, low=low, high=high)
    return Peak(d=Figure.of(found), gold=start + gain, reached=farthest > d)
