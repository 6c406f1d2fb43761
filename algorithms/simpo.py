"""Simple preference optimisation with a reference-free reward (arXiv 2405.14734, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Needs, Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SimPOConfig:
    """Fields of SimPO."""

    beta: float = option(2.0, "scale of the log-likelihood per token", minimum=1e-6, tuned=(0.2, 5.0))
    gamma: float = option(1.0, "γ: margin asked for, in units of β · log-likelihood per token; the paper's γ/β is 0.5")


class SimPO(Pairwise):
    """L = −log σ(β [log π(chosen)/|chosen| − log π(rejected)/|rejected|] − γ).

    Nothing holds the policy near a reference: it is not known what it converges to, and the learning rate and
    the number of steps are part of the method.
    """

    Config = SimPOConfig
    needs = Needs(responses="pair", scores=("policy",))

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""
        chosen, rejected = pair.mean_logps.unbind(-1)
        return -log_sigmoid(self.config.beta * (chosen - rejected) - self.config.gamma)
