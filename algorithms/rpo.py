"""DPO plus the likelihood of chosen: iterative reasoning preference optimisation (arXiv 2404.19733, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RPOConfig:
    """Fields of RPO."""

    beta: float = option(0.1, "strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))
    alpha: float = option(1.0, "α: weight of the likelihood of chosen", minimum=0.0)


class RPO(Pairwise):
    """L = −log σ(β [log π/π_ref(chosen) − log π/π_ref(rejected)]) − α log π(chosen)/|chosen|.

    The second term keeps chosen responses from losing likelihood. It also moves the optimum off DPO's, towards
    the distribution of the chosen responses; no closed form is known.
    """

    Config = RPOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""
        return -log_sigmoid(self.config.beta * pair.margin) - self.config.alpha * pair.mean_logps[:, 0]
