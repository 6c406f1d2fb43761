"""Noise contrastive alignment, pair form (arXiv 2402.05369)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, Pair, Pairwise, Scores, log_sigmoid, masked_sum, option, win_probability

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NCAConfig:
    """Fields of NCA."""

    beta: float = option(0.01, "scale of the log-ratios, as in DPO", minimum=1e-6, tuned=(0.2, 5.0))


class NCA(Pairwise):
    """L = −log σ(u_chosen) − ½ log σ(−u_chosen) − ½ log σ(−u_rejected) with u = β log π/π_ref.

    Each response is told from noise by itself, so that chosen ones do not lose likelihood. On pairs of two
    independent draws from the reference each u by itself would settle at log 2P(y), with P(y) how often y is
    preferred to the reference's response. For β = 1 that is a distribution, π* = 2 P π_ref, and NCA converges
    to it; for other β no closed form is known.
    """

    Config = NCAConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; 2 log 2 where the policy is the reference."""
        chosen, rejected = (self.config.beta * pair.logratios).unbind(-1)
        return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π* for Bradley-Terry preferences, ``[B, K]``, if β is 1, else None."""
        if self.config.beta != 1:
            return None
        mask = batch.response_mask
        reference, present = masked_sum(scores.reference_logps, mask), mask.any(-1)
        wins = win_probability(reference, scores.rewards, present)
        return (reference + wins.log()).masked_fill(~present, float("-inf")).log_softmax(-1)
