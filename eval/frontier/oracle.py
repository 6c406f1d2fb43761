"""The oracle line: the highest mean reward that any policy could have at a given mean KL to the reference.

Maximising E[r] while the KL, averaged over prompts, stays at k has the Lagrangian solution

    π_b(y|x) ∝ π_ref(y|x) exp(r(x, y) / b),      one temperature b > 0 for all prompts,

and by the Donsker-Varadhan inequality E_π[r] ≤ b KL(π‖π_ref) + b log Z_b(x) for every π and b, so that

    line(k) = min over b of  b k + mean over x of b log Z_b(x),      Z_b(x) = E_ref[exp(r(x, y) / b)].

That form needs nothing but log Z, is concave and rising in k by construction, and an error of log Z at the
best b passes on without the first-order error of KL or reward that a tilted average would add.

From M reference samples of each prompt, log Z is estimated by the log of their mean exp(r/b): the
self-normalised importance weights w ∝ exp(r/b) of the tilted policy. The log of a mean errs downwards by about
(1/ESS − 1/M)/2, which the jackknife (Quenouille 1956; Efron and Tibshirani 1993, chapter 10) removes. How much
is left is judged by doing it all again with half of the samples, and by how far the jackknife strays from that formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from preflab.eval.frontier.tables import Array
from preflab.eval.records.frontier import OracleLine
from preflab.eval.statistics import interval

TOLERANCE = 0.02
"""Largest error of a line that is trusted, as a share of the gain over the reference."""

Z = 2.576
"""Standard errors of sampling noise inside the tolerance: 99 %, since a line should keep it at all its points."""

REMAINING = 3.0
"""What may be left of the bias at M samples, over what the last doubling of M changed: all further doublings
together, if each changes three quarters of the one before (a bias that falls as M^-0.42; after the jackknife, light
tails give M^-2). With 2, one normal line in six broke its tolerance; docs/frontier.md counts those that do now."""

POINTS = 60

# Temperatures in units of the reward's spread. Between neighbours the minimum errs by 0.02 % of the gain at most,
# and where the line is flat by 0.01 % of the spread a nat.
_TEMPERATURES = np.geomspace(1e3, 1e-4, 400)


@dataclass(frozen=True)
class Oracle:
    """The oracle line of X prompts.

    Attributes:
        source: what it comes from.
        temperatures: b, ``[T]``, falling.
        bounds: b log Z_b(x), ``[T, X]``.
        reference: E_ref[r] of each prompt, ``[X]``.
        longest: KL of the smallest b, nats; from there on the line is flat.
        trusted_kl: KL up to which the line keeps its tolerance; infinite where it is exact.
        tolerance: largest error up to there, as a share of the gain over the reference; 0 where it is exact.
        ess: effective samples a prompt at each b, ``[T]``; None where the line is exact.
    """

    source: Literal["exact", "reference samples"]
    temperatures: Array
    bounds: Array
    reference: Array
    longest: float
    trusted_kl: float = math.inf
    tolerance: float = 0.0
    ess: Array | None = None

    def reward(self, kl: ArrayLike) -> Array:
        """Return the best mean reward at mean KLs of any shape; a KL below 0 counts as 0."""
        found = np.asarray(kl, dtype=np.float64)
        line = (self.temperatures * found[..., None] + self.bounds.mean(1)).min(-1)
        return np.where(found > 0, line, self.reference.mean())

    def parts(self, kl: float) -> tuple[float, Array]:
        """Return the line's slope b at a mean KL, and what each prompt adds to the line there, ``[X]``, less b KL.

        The line is their mean and b KL together. A small change of a prompt's bound or KL changes it by just that,
        since the best b is a minimum: its own change is of second order.
        """
        if kl <= 0:
            return 0.0, self.reference
        best = _place(self.temperatures, self.bounds.mean(1), np.array([kl]))[0]
        return float(self.temperatures[best]), self.bounds[best]

    def line(self, longest: float | None = None) -> OracleLine:
        """Return the line at KLs evenly spaced in sqrt(KL).

        It is cut where it is no longer trusted. ``low`` and ``high`` are its 95 % band over prompts, which holds the
        noise of samples too; an exact line is known, and is its own band. ``trusted_kl`` is None, and ``ess`` empty,
        where the line is exact.

        Args:
            longest: KL at which to end; by default where the line turns flat.
        """
        end = min(self.longest if longest is None else longest, self.trusted_kl)
        kl = np.linspace(0.0, math.sqrt(end), POINTS) ** 2 if end > 0 else np.zeros(1)
        reward = self.reward(kl)
        low, high, ess = reward, reward, np.empty(0)
        if self.ess is not None:
            parts = [self.parts(k) for k in kl]
            bands = [interval(b * k + bounds, rate=False) for k, (b, bounds) in zip(kl, parts, strict=True)]
            low, high = np.array([band.low for band in bands]), np.array([band.high for band in bands])
            ess = self.ess[_place(self.temperatures, self.bounds.mean(1), kl)]
        return OracleLine(
            source=self.source,
            kl=tuple(kl.tolist()),
            reward=tuple(reward.tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            ess=tuple(ess.tolist()),
            trusted_kl=None if math.isinf(self.trusted_kl) else self.trusted_kl,
            tolerance=self.tolerance,
        )


def exact_oracle(reference_logps: ArrayLike, rewards: ArrayLike) -> Oracle:
    """Return the line of a world whose responses are all known.

    Args:
        reference_logps: ``[X, N]`` log π_ref(y|x) of every response, −inf where there is none; each row adds
            up to 1 within 1e-3 and is then made to.
        rewards: ``[X, N]`` r(x, y).

    Raises:
        ValueError: if shapes differ, a row is no distribution, or a possible response has no finite reward.
    """
    logps, table = np.asarray(reference_logps, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    if logps.ndim != 2 or logps.shape != table.shape or logps.size == 0:
        raise ValueError(f"reference_logps {logps.shape} and rewards {table.shape} must both be [X, N], not empty")
    total = logsumexp(logps, axis=1, keepdims=True)
    if not (np.abs(np.expm1(total)) < 1e-3).all():
        raise ValueError(f"probabilities of prompt {int(np.abs(total).argmax())} do not add up to 1")
    possible = np.isfinite(logps)
    if not np.isfinite(table[possible]).all():
        raise ValueError("a response that the reference can give has no finite reward")
    # A response that cannot be given weighs nothing whatever its reward; one finite value keeps 0 · r at 0.
    logps, table = logps - total, np.where(possible, table, 0.0)
    reference, spread = _moments(np.exp(logps), table)
    if spread == 0:
        return Oracle("exact", np.zeros(1), reference[None], reference, 0.0)
    temperatures = spread * _TEMPERATURES
    centred = table - reference[:, None]
    log_z = np.stack([logsumexp(logps + centred / b, axis=1) for b in temperatures])
    bounds = temperatures[:, None] * log_z + reference
    tilted = np.exp(logps + centred / temperatures[-1] - log_z[-1][:, None])
    longest = float(((tilted * centred).sum(1) / temperatures[-1] - log_z[-1]).mean())
    return Oracle("exact", temperatures, bounds, reference, max(longest, 0.0))


def sampled_oracle(rewards: ArrayLike, tolerance: float = TOLERANCE, seed: int = 0) -> Oracle:
    """Return the line estimated from samples of the reference policy, with the KL up to which to trust it.

    The error at a KL, as a share of the gain over the reference, is taken as `Z` standard errors of the samples'
    noise, prompts fixed, and the larger of two figures for the bias that is left:

    - `REMAINING` times what halving the samples changes: the jackknifed line of all samples against its halves';
    - what the jackknife adds beyond the bias's first order, (1/ESS − 1/M)/2: where the best answers are few, one
      sample decides, and two ways to the same bias disagree.

    The line is trusted as far as that stays within `tolerance`, and never past log M, the largest KL that M
    samples can show. At small KL the noise is 0.71 Z / sqrt(X M) for rewards that are normally distributed: 2 %
    take at least 8,300 samples in all.

    Args:
        rewards: ``[X, M]`` r of M >= 4 samples of each prompt from the reference at temperature 1, in any order;
            equal ones are one atom.
        tolerance: largest error of a trusted line, in (0, 1).
        seed: of the choice of halves.

    Raises:
        ValueError: if the rewards are no such table, or the tolerance is out of range.
    """
    table = np.asarray(rewards, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 4:
        raise ValueError(f"rewards have shape {table.shape}; expected [X, M], at least 4 samples of each prompt")
    if not np.isfinite(table).all():
        raise ValueError("rewards hold a value that is not finite")
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance is {tolerance}; it must lie between 0 and 1, for example {TOLERANCE}")
    samples = table.shape[1]
    longest = math.log(samples)
    reference, spread = _moments(np.full(table.shape, 1.0 / samples), table)
    if spread == 0:
        equal = np.full(1, float(samples))
        return Oracle("reference samples", np.zeros(1), reference[None], reference, longest, longest, tolerance, equal)
    temperatures = spread * _TEMPERATURES
    found = _estimates(table - reference[:, None], temperatures, seed)
    trusted = _trusted_kl(temperatures, found, longest, tolerance)
    bounds = found.bounds + reference
    return Oracle("reference samples", temperatures, bounds, reference, longest, trusted, tolerance, found.ess)


class _Estimates(NamedTuple):
    """What samples tell at each of T temperatures.

    Attributes:
        bounds: jackknifed b log Z of gains, ``[T, X]``.
        half_bounds: the same of halves, averaged over halves and prompts, ``[T]``.
        unexplained: what the jackknife adds beyond the bias's first order, averaged over prompts, ``[T]``.
        ess: effective samples a prompt, ``[T]``.
        noise: standard error of a gain, prompts fixed, ``[T]``.
    """

    bounds: Array
    half_bounds: Array
    unexplained: Array
    ess: Array
    noise: Array


def _estimates(centred: Array, temperatures: Array, seed: int) -> _Estimates:
    prompts, samples = centred.shape
    # Sorted first, so that the order of the samples has no say in how they are halved.
    ordered = np.sort(centred, axis=1)
    shuffled = np.random.default_rng(seed).permuted(ordered, axis=1)[:, : samples // 2 * 2]
    halves = np.sort(shuffled.reshape(2 * prompts, samples // 2), axis=1)
    bounds = np.empty((len(temperatures), prompts))
    half_bounds, unexplained, ess, noise = np.empty((4, len(temperatures)))
    for t, b in enumerate(temperatures):
        weights, bounds[t], added = _jackknifed(ordered, b)
        half_bounds[t] = _jackknifed(halves, b)[1].mean()
        concentration = (weights**2).sum(1)
        unexplained[t] = (added - b * (concentration - 1.0 / samples) / 2.0).mean()
        ess[t] = (1.0 / concentration).mean()
        # Influence of a sample on line(k) − E_ref[r]: b (Z's relative change) less its own deviation.
        influence = b * (samples * weights - 1.0) - ordered
        noise[t] = math.sqrt((influence**2).sum() / (samples * (samples - 1))) / prompts
    return _Estimates(bounds, half_bounds, unexplained, ess, noise)


def _jackknifed(rewards: Array, b: float) -> tuple[Array, Array, Array]:
    """Return, of M samples sorted by reward: w ∝ exp(r/b) ``[X, M]``, the jackknifed b log Z, and its correction."""
    samples = rewards.shape[1]
    second, first = rewards[:, -2], rewards[:, -1]
    # The sum without its largest term is not got by subtraction: rounding would be all that is left of it.
    terms = np.exp((rewards[:, :-1] - second[:, None]) / b)
    rest, shrink = terms.sum(1), np.exp((second - first) / b)
    whole = 1.0 + rest * shrink
    others = terms * (shrink / whole)[:, None]
    total, without_first = first / b + np.log(whole), second / b + np.log(rest)
    without = (np.log1p(-others).sum(1) + (samples - 1) * total + without_first) / samples - math.log(samples - 1)
    weights = np.column_stack([others, 1.0 / whole])
    added = (samples - 1) * (total - math.log(samples) - without)
    return weights, b * (total - math.log(samples) + added), b * added


def _trusted_kl(temperatures: Array, found: _Estimates, longest: float, tolerance: float) -> float:
    """Return the largest KL up to which the error keeps the tolerance."""
    bounds = found.bounds.mean(1)
    kl = np.linspace(0.0, math.sqrt(longest), 4 * POINTS)[1:] ** 2
    best = _place(temperatures, bounds, kl)
    gain = (temperatures * kl[:, None] + bounds).min(1)
    half = (temperatures * kl[:, None] + found.half_bounds).min(1)
    bias = np.maximum(REMAINING * np.abs(gain - half), np.abs(found.unexplained[best]))
    kept = bias + Z * found.noise[best] <= tolerance * gain
    kept &= gain > 0
    passed = len(kl) if kept.all() else int(kept.argmin())
    return float(kl[passed - 1]) if passed else 0.0


def _moments(weights: Array, rewards: Array) -> tuple[Array, float]:
    """Return the mean of each prompt ``[X]`` and the spread within prompts."""
    mean = (weights * rewards).sum(1)
    spread = math.sqrt(float((weights * (rewards - mean[:, None]) ** 2).sum(1).mean()))
    # Rewards that differ by rounding alone are equal.
    return mean, spread if spread > 1e-12 * float(np.abs(rewards).max()) else 0.0


def _place(temperatures: Array, bounds: Array, kl: Array) -> NDArray[np.intp]:
    """Return the index of the best b for each of ``kl [K]``, given mean bounds ``[T]``."""
    return np.asarray((temperatures * kl[:, None] + bounds).argmin(1))
