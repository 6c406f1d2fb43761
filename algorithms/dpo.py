"""Direct preference optimisation (arXiv 2305.18290, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPOConfig:
    """Fields of DPO."""

    beta: float = option(0.1, "strength of the pull towards the reference policy", minimum=1e-6)


class DPO(Pairwise):
    """L = −log σ(β [log π/π_ref(chosen) − log π/π_ref(rejected)])."""

    Config = DPOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; log 2 where the policy is the reference."""
        return -log_sigmoid(self.config.beta * pair.margin)
