"""How often a model's response would be better than the baseline's if both were equally long."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import ArrayLike

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Whole
from preflab.eval.statistics import length_controlled_win_rate
from preflab.eval.statistics.length_control import Fit


def whole(games: ArrayLike, longer: ArrayLike, *, groups: ArrayLike | None = None) -> dict[str, Any]:
    """Return the estimate and its ``note`` of games ``[S, D, N]``, see `eval.statistics.length_controlled_win_rate`."""
    found = length_controlled_win_rate(games, longer)
    return {**found.win_rate.as_dict(), "note": found.note}


LENGTH_CONTROLLED = Whole(
    "length_controlled_win_rate",
    "share of wins at equal length, ties as half; with a `note` where its fit is not to be trusted",
    whole,
    ("games", "longer"),
    PERCENT,
    higher_is_better=True,
    heading="win rate, length-controlled",
    shown=("ranking",),
)


class LengthControlledWinRate(base.PromptMetric):
    """Win rate that is left when both responses are equally long, as AlpacaEval 2 asks; a tie counts as half.

    A logistic model of the win with the difference in length as the one covariate is read at a difference of 0: judges
    like long answers, and a longer answer is not a better one.

    Lengths are tokens, or characters, as AlpacaEval's are (`--length-unit`). `compute(…, fit="alpaca_eval")` fits as
    its ``length_controlled_minimal`` does.
    """

    of = "games"
    order = 15
    version = "1.0.0"
    inputs: ClassVar = {
        "games": ("float64", "1 where the model's response won, 0.5 on a tie, 0 where it lost"),
        "longer": ("float64", "length of the model's response less that of the baseline's"),
    }
    measures: ClassVar = (LENGTH_CONTROLLED,)
    beyond: ClassVar = {"note": "what stood in the way of a proper fit; null if nothing did"}
    source = """@article{dubois2024length,
  title={Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators},
  author={Dubois, Yann and Galambosi, Balázs and Liang, Percy and Hashimoto, Tatsunori B.},
  journal={arXiv:2404.04475}, year={2024}}"""

    def _compute(
        self, *, level: float = 0.95, groups: ArrayLike | None = None, fit: Fit = "prior", **inputs: Any
    ) -> dict[str, Any]:
        if groups is not None:
            raise ValueError("games of one prompt have a place of their own, [S, D, N]; groups are for other metrics")
        found = length_controlled_win_rate(*base.vectors(**inputs), level=level, fit=fit)
        mean, low, high, n = found.win_rate
        return {self.measures[0].name: mean, "low": low, "high": high, "n": n, "note": found.note}
