"""Contrastive preference optimisation (arXiv 2401.08417)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Needs, Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CPOConfig:
    """Fields of CPO."""

    beta: float = option(0.1, "scale of the difference in log-likelihood", minimum=1e-6, tuned=(0.2, 5.0))
    alpha: float = option(1.0, "α: weight of the likelihood of chosen", minimum=0.0)


class CPO(Pairwise):
    """L = −log σ(β [log π(chosen) − log π(rejected)]) − α log π(chosen)/|chosen|.

    DPO with a uniform reference, and the likelihood of chosen (per token, as in TRL, where the paper sums) in its
    place as the anchor. What it converges to is not known.
    """

    Config = CPOConfig
    needs = Needs(responses="pair", scores=("policy",))

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""
        contrast = -log_sigmoid(self.config.beta * (pair.logps[:, 0] - pair.logps[:, 1]))
        return contrast - self.config.alpha * pair.mean_logps[:, 0]
