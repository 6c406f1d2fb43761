"""Win rates at equal length: judges like long answers, and a longer answer is not a better one."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, as_table, interval
from preflab.eval.statistics.lasso import FOLDS, cross_validated

Array = NDArray[np.float64]

Fit = Literal["prior", "alpaca_eval"]

# Standard deviation of the prior on the length's effect, in log-odds: it bounds what is not determined, no more.
_PRIOR = 3.0

# Effect of length, in log-odds, from which on a few hundred games no longer hold their own against the prior: with a
# win rate of 88 % at equal length, 95 % intervals held it in 88 to 95 % of samples of 64 to 1,000 games at a true
# effect of 4, in 80 to 90 % at 6, and in 50 to 67 % at 10.
_STRONG = 5.0


class LengthControlled(NamedTuple):
    """A win rate at equal length.

    Attributes:
        win_rate: predicted at a length difference of 0, with its interval.
        length_effect: log-odds of a win that a response gains by being much longer than its opponent.
        note: what stood in the way of a proper fit; None if nothing did.
    """

    win_rate: Estimate
    length_effect: float
    note: str | None


def length_controlled_win_rate(
    wins: ArrayLike, longer: ArrayLike, *, level: float = 0.95, fit: Fit = "prior"
) -> LengthControlled:
    """Return the win rate that is left when both responses are equally long (Dubois et al. 2024, arXiv 2404.04475).

    As AlpacaEval 2 does, a logistic model of the win, which may be soft, ``logit P = θ + φ·tanh(d / std(d))`` with d
    the difference in length, is fitted and read at d = 0. AlpacaEval's third term, the difficulty of each
    instruction, is left out: it is fitted on the leaderboard's other models. The fit adds one tied game at equal
    length and a weak prior on φ (normal, standard deviation 3), so that it exists where wins and losses can be
    told apart by length or all games were won. The interval is that of `interval`, for the values to which a
    small change of each game would move the figure.

    With ``fit="alpaca_eval"`` the fit is that of AlpacaEval's ``length_controlled_minimal``: no prior and no tied game,
    but a penalty on |θ| + |φ| whose weight five-fold cross-validation chooses (see `lasso`), and the standard deviation
    of a sample. It draws θ towards 0 too, and that the more the fewer games there are.

    Each game counts with its own lengths: a mean over several opponents, against their mean length, would hide that
    the longer of them won more often.

    Args:
        wins: ``[S, N]`` or ``[N]``, each in [0, 1]: 1 a win, 0.5 a tie, 0 a loss; or ``[S, D, N]``, against D
            answers of the opponent to each prompt.
        longer: the response's length less its opponent's, of the same shape, in any unit.
        level: confidence level.
        fit: how θ and φ are found.

    Raises:
        ValueError: if shapes differ, or values are not finite or out of range; or if there are fewer prompts than
            cross-validation has folds.
    """
    won, difference = _games(wins), _games(longer)
    if won.shape != difference.shape:
        raise ValueError(f"wins have shape {won.shape}, length differences {difference.shape}; give one for each win")
    if not ((won >= 0.0) & (won <= 1.0)).all():
        raise ValueError("wins must lie between 0 (loss) and 1 (win), 0.5 for a tie")
    by_lasso = fit == "alpaca_eval"
    if by_lasso and won.shape[-1] < FOLDS:
        raise ValueError(f"wins are of {won.shape[-1]} prompts; cross-validation takes {FOLDS} and more")
    deviation = float(difference.std(ddof=int(by_lasso)))
    if deviation <= 1e-9 * float(abs(difference).max()):
        note = "all length differences are equal: there is no effect to fit"
        return LengthControlled(interval(won.mean(1), level=level, rate=True), 0.0, note)
    feature = np.tanh(difference / deviation)
    theta, phi, moved = _lasso(won, feature) if by_lasso else _fit(won, feature)
    share = float(1.0 / (1.0 + np.exp(-theta)))
    if (won == won.flat[0]).all():
        # Nothing varies: the rate's own interval says how little is known.
        return LengthControlled(interval(won.mean(1), level=level, rate=True), 0.0, "all outcomes are equal")
    found = interval((share + moved - moved.mean()).mean(1), level=level, rate=True)
    return LengthControlled(found, phi, _doubt(won, feature, phi))


def _games(values: ArrayLike) -> Array:
    """Return finite values as ``[S, D, N]``; raise ValueError where that is not possible."""
    if np.ndim(values) != 3:
        return as_table(values)[:, None]
    seeds, draws, prompts = np.shape(values)
    return as_table(np.reshape(values, (seeds * draws, prompts))).reshape(seeds, draws, prompts)


def _doubt(won: Array, feature: Array, phi: float) -> str | None:
    """Return why a fit is not to be trusted; None where nothing speaks against it."""
    better, worse = feature[won > 0.5], feature[won < 0.5]
    both = better.size and worse.size and not (won == 0.5).any()
    if both and (better.min() > worse.max() or better.max() < worse.min()):
        return "length alone tells wins from losses: the figure rests on the prior"
    if feature.min() > 0.0 or feature.max() < 0.0:
        side = "longer" if feature.min() > 0.0 else "shorter"
        return f"every response is {side} than its opponent: equal length is extrapolated"
    if abs(phi) > _STRONG:
        return "length nearly decides who wins: the prior draws the figure towards 50 %, its interval is too narrow"
    return None


def _fit(won: Array, feature: Array) -> tuple[float, float, Array]:
    """Return θ, φ, and by how much each game moves the win rate at equal length, times their number, like `won`."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(x: Array) -> float:
        logit = x[0] + x[1] * feature
        games = (np.logaddexp(0.0, logit) - won * logit).sum()
        return float(games + np.logaddexp(0.0, x[0]) - 0.5 * x[0] + 0.5 * (x[1] / _PRIOR) ** 2)

    def gradient(x: Array) -> Array:
        missing = expit(x[0] + x[1] * feature) - won
        return np.array([missing.sum() + expit(x[0]) - 0.5, (missing * feature).sum() + x[1] / _PRIOR**2])

    def curvature(x: Array) -> Array:
        chance = expit(x[0] + x[1] * feature)
        weight = chance * (1.0 - chance)
        even = expit(x[0]) * (1.0 - expit(x[0]))
        cross = (weight * feature).sum()
        return np.array([[weight.sum() + even, cross], [cross, (weight * feature**2).sum() + _PRIOR**-2]])

    x = minimize(loss, np.zeros(2), jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-8}).x
    row = np.linalg.inv(curvature(x))[0]
    slope = expit(x[0]) * (1.0 - expit(x[0])) * won.size
    moved = slope * (row[0] + row[1] * feature) * (won - expit(x[0] + x[1] * feature))
    return float(x[0]), float(x[1]), np.asarray(moved, dtype=np.float64)


def _lasso(won: Array, feature: Array) -> tuple[float, float, Array]:
    """Return the same by AlpacaEval's fit; what the penalty keeps at 0 is not moved by any game."""
    from scipy.special import expit

    found = cross_validated(won, feature)
    chance = expit(found.theta + found.phi * feature)
    weight = chance * (1.0 - chance)
    design = np.stack([np.ones_like(feature), feature])[: 1 if found.phi == 0.0 else 2]
    row = np.linalg.inv(np.einsum("isdn,jsdn,sdn->ij", design, design, weight))[0]
    even = expit(found.theta) * (1.0 - expit(found.theta))
    moved = even * won.size * np.einsum("i,isdn->sdn", row, design) * (won - chance)
    return found.theta, found.phi, np.asarray(moved, dtype=np.float64)
