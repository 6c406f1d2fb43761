"""Identity preference optimisation (arXiv 2310.12036, eq. 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, Pair, Pairwise, Scores, kl_regularised_optimum, masked_sum, option, win_probability

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IPOConfig:
    """Fields of IPO."""

    beta: float = option(
        0.1, "τ of the paper: a pair is pulled to a margin of 1/(2β) nats", minimum=1e-6, tuned=(0.2, 5.0)
    )
    length_normalised: bool = option(
        False, "average log-ratios over tokens, as TRL does, where the paper sums them; 1/(2β) is then nats per token"
    )


class IPO(Pairwise):
    """L = (log π/π_ref(chosen) − log π/π_ref(rejected) − 1/(2β))².

    Converges to π* ∝ π_ref exp(P/β) with P(y) = E_{y' ~ π_ref} P(y ≻ y'), on pairs drawn from the reference: the
    expected loss is, but for a constant, that of fitting g(y) − g(y'), g = log π/π_ref, to (2 P(y ≻ y') − 1)/(2β),
    and its normal equations g(y) − E g = (2 P(y) − 1)/(2β) are met by P/β + constant. Averaging over tokens makes
    that log π*/π_ref = |y| (P/β + constant); other pairs weigh the fit otherwise.
    """

    Config = IPOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; 1/(4β²) where the policy is the reference."""
        margin = pair.mean_margin if self.config.length_normalised else pair.margin
        return (margin - 1 / (2 * self.config.beta)) ** 2

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π* for Bradley-Terry preferences, ``[B, K]``; None if length-normalised."""
        if self.config.length_normalised:
            return None
        mask = batch.response_mask
        reference, present = masked_sum(scores.reference_logps, mask), mask.any(-1)
        wins = win_probability(reference, scores.rewards, present)
        return kl_regularised_optimum(reference, wins, self.config.beta, present)
