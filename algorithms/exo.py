"""Efficient exact optimisation, pair form (arXiv 2402.00856, eq. 16)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, log_sigmoid, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EXOConfig:
    """Fields of EXO."""

    beta: float = option(0.1, "β_π: strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))
    label_smoothing: float = option(
        1e-3, "ε: the target gives rejected this probability; 0 would have no finite loss", minimum=1e-9, maximum=0.49
    )


class EXO(Pairwise):
    """L = KL(q ‖ (1 − ε, ε)) with q = softmax(β log π/π_ref) over chosen and rejected.

    The reverse of DPO's divergence: it seeks the mode. Each pair by itself would settle at β · margin =
    (2p − 1) log((1 − ε)/ε), p being the share of labels that chose the first; no closed form is known for the policy.
    The paper's proof that the optimum is π_ref exp(r/β) is for all responses scored by r, not for labelled pairs.
    """

    Config = EXOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""
        smoothing, logit = self.config.label_smoothing, self.config.beta * pair.margin
        chosen, rejected = log_sigmoid(logit), log_sigmoid(-logit)
        above_target = chosen - math.log1p(-smoothing), rejected - math.log(smoothing)
        return chosen.exp() * above_target[0] + rejected.exp() * above_target[1]
