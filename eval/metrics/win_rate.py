"""How often a model's response has a higher reward than the baseline's response to the same prompt."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Measure

Array = NDArray[np.float64]


def per_prompt(reward: ArrayLike, baseline_reward: ArrayLike) -> Array:
    """Return ``[N]``: 1 for a win over the baseline, 0.5 for a tie, 0 for a loss."""
    return base.share_above(*base.vectors(reward=reward, baseline_reward=baseline_reward))


def games(games: ArrayLike) -> Array:
    """Return the games as they are: 1 won, 0.5 tied, 0 lost."""
    return np.asarray(games, dtype=np.float64)


def won(games: ArrayLike) -> Array:
    """Return where games were won, 1 or 0; NaN where nobody said."""
    return _where(games, np.greater)


def tied(games: ArrayLike) -> Array:
    """Return where games were tied, 1 or 0; NaN where nobody said."""
    return _where(games, np.equal)


def lost(games: ArrayLike) -> Array:
    """Return where games were lost, 1 or 0; NaN where nobody said."""
    return _where(games, np.less)


def _where(games: ArrayLike, compare: np.ufunc) -> Array:
    table = np.asarray(games, dtype=np.float64)
    return np.where(np.isfinite(table), compare(table, 0.5), np.nan)


WIN_RATE = Measure(
    "win_rate",
    "share of answers that are better than the baseline's, ties as half; 0.5 means equal",
    games,
    ("games",),
    PERCENT,
    higher_is_better=True,
    heading="win rate",
    shown=("table", "ranking"),
    rate=True,
)
OUTCOMES = tuple(
    Measure(key, what, values, ("games",), PERCENT, better, heading, ("generations",), rate=True)
    for key, what, values, better, heading in (
        ("wins", "share of answers that are better", won, True, "won"),
        ("ties", "share of answers that are as good", tied, None, "tied"),
        ("losses", "share of answers that are worse", lost, False, "lost"),
    )
)


class WinRate(base.PromptMetric):
    """Share of prompts on which the response's reward is above the baseline's; a tie counts as half.

    Both responses answer the same prompt and are judged by the same reward, which must not be the one
    that the method was trained against: the world's gold reward, or a held-out reward model.
    """

    of = "games"
    order = 10
    version = "1.1.0"
    inputs: ClassVar = {
        "reward": ("float64", "reward of the model's response to each prompt"),
        "baseline_reward": ("float64", "reward of the baseline's response to the same prompt"),
    }
    measures: ClassVar = (WIN_RATE, *OUTCOMES)
    source = """@article{stiennon2020summarize,
  title={Learning to summarize from human feedback},
  author={Stiennon, Nisan and Ouyang, Long and Wu, Jeff and others},
  journal={arXiv:2009.01325}, year={2020}}"""

    def columns(self, **inputs: Any) -> dict[str, Any]:
        """Return the games that the rewards decide."""
        return {"games": per_prompt(**inputs)}
