"""DiscoPOP, a loss found by a language model (arXiv 2406.08414, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DiscoPOPConfig:
    """Fields of DiscoPOP."""

    beta: float = option(0.05, "strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))
    tau: float = option(0.05, "width of the passage from logistic to exponential loss, in β · margin", minimum=1e-3)


class DiscoPOP(Pairwise):
    """L = (1 − σ(z/τ)) · (−log σ(z)) + σ(z/τ) · e^{−z} with z = β · margin.

    Logistic for pairs in the wrong order, exponential for those in the right one. In between, about z = 0, it rises
    with the margin if τ is below 0.1: pairs that start there are first pulled a little the wrong way. Nobody knows
    what it converges to.
    """

    Config = DiscoPOPConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; (1 + log 2)/2 where the policy is the reference."""
        z = self.config.beta * pair.margin
        passage = z / self.config.tau
        # One exponent: e^{−z} alone overflows where the passage has long taken its weight to 0.
        exponential = (log_sigmoid(passage) - z).exp()
        return -(-passage).sigmoid() * log_sigmoid(z) + exponential
