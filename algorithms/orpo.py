"""Odds ratio preference optimisation (arXiv 2403.07691, eq. 6 and 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Needs, Pair, Pairwise, log_odds, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ORPOConfig:
    """Fields of ORPO."""

    odds_weight: float = option(
        0.1, "λ: weight of the odds ratio against the likelihood of chosen", minimum=0.0, tuned=(0.2, 5.0)
    )


class ORPO(Pairwise):
    """L = −log π(chosen)/|chosen| − λ log σ(log odds(chosen) − log odds(rejected)).

    odds = p/(1 − p) with log p the log-likelihood per token. The likelihood is that of the response: TRL's
    also counts the prompt's tokens.

    Supervised fine-tuning and preferences in one stage, without a reference; what it converges to is not known.
    """

    Config = ORPOConfig
    needs = Needs(responses="pair", scores=("policy",))

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""
        chosen, rejected = log_odds(pair.mean_logps).unbind(-1)
        return -pair.mean_logps[:, 0] - self.config.odds_weight * log_sigmoid(chosen - rejected)
