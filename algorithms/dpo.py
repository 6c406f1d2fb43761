"""Direct preference optimisation (arXiv 2305.18290, eq. 7), with or without label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, Pair, Pairwise, Scores, kl_regularised_optimum, log_sigmoid, masked_sum, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPOConfig:
    """Fields of DPO."""

    beta: float = option(0.1, "strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))
    label_smoothing: float = option(
        0.0, "ε: share of labels taken to be wrong; above 0 this is conservative DPO", minimum=0.0, maximum=0.49
    )
    length_normalised: bool = option(
        False, "average log-ratios over tokens (arXiv 2411.15124); β is then some ten to a hundred times larger"
    )


class DPO(Pairwise):
    """L = −log σ(β [log π/π_ref(chosen) − log π/π_ref(rejected)]).

    Label smoothing (cDPO) gives the other order the weight ε: (1 − ε) L(chosen, rejected) + ε L(rejected, chosen).

    Converges to π* ∝ π_ref exp(r/β) where preferences follow Bradley-Terry in r and ε = 0. With ε > 0 each
    pair by itself would settle at β · margin = log odds of the smoothed preference, which in general no r gives;
    no closed form is known. Averaging over tokens makes log π*/π_ref = |y| (r/β + constant).
    """

    Config = DPOConfig

    def certainty(self, preference: Tensor) -> Tensor:
        """Return the preference after ε of the labels changed sides, ``[B]``."""
        smoothing = self.config.label_smoothing
        return (1 - smoothing) * preference + smoothing * (1 - preference)

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; log 2 where the policy is the reference."""
        margin = pair.mean_margin if self.config.length_normalised else pair.margin
        return -log_sigmoid(self.config.beta * margin)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π* of the KL-regularised objective, ``[B, K]``; None if smoothed or length-normalised."""
        if self.config.label_smoothing or self.config.length_normalised:
            return None
        mask = batch.response_mask
        reference = masked_sum(scores.reference_logps, mask)
        return kl_regularised_optimum(reference, scores.rewards, self.config.beta, mask.any(-1))
