"""Robust DPO: an unbiased loss where a known share of the labels is wrong (arXiv 2403.00409)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, Pair, Pairwise, Scores, log_sigmoid, option
from preflab.algorithms.dpo import DPO, DPOConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RobustDPOConfig:
    """Fields of robust DPO."""

    beta: float = option(0.1, "strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))
    flip_rate: float = option(0.1, "ε: share of labels that were flipped at random", minimum=0.0, maximum=0.49)


class RobustDPO(Pairwise):
    """L = [(1 − ε) DPO(chosen, rejected) − ε DPO(rejected, chosen)] / (1 − 2ε).

    Where labels were flipped with probability ε, its expectation is DPO's on the labels before; so it converges
    to π* ∝ π_ref exp(r/β), if ε is right. On labels that were never flipped it overstates every preference.
    The loss of a pair is unbounded below: π leaves the reference without end where a pair comes with one label only.
    """

    Config = RobustDPOConfig

    @property
    def label_noise(self) -> float:
        """Share of labels that are taken to be flipped."""
        rate: float = self.config.flip_rate
        return rate

    def certainty(self, preference: Tensor) -> Tensor:
        """Return (p − ε) / (1 − 2ε), ``[B]``: the preference before the flips; above 1 where p is 1."""
        rate = self.config.flip_rate
        return (preference - rate) / (1 - 2 * rate)

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return DPO's loss of each pair as it is labelled, ``[B]``."""
        return -log_sigmoid(self.config.beta * pair.margin)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return DPO's log π*, ``[B, K]``: that of the rewards behind the labels before ε of them were flipped."""
        return DPO(DPOConfig(self.config.beta)).optimum(batch, scores)
