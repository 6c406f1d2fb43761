"""Hinge loss on log-ratios: "hinge-norm" of RSO (arXiv 2309.06657), after SLiC-HF (arXiv 2305.10425)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SLiCConfig:
    """Fields of SLiC."""

    beta: float = option(0.1, "the loss of a pair is 0 from a margin of 1/β nats on", minimum=1e-6, tuned=(0.2, 5.0))


class SLiC(Pairwise):
    """L = max(0, 1 − β [log π/π_ref(chosen) − log π/π_ref(rejected)]).

    SLiC-HF compares log-likelihoods and adds a cross-entropy term; log-ratios to the reference take the place
    of both. What it converges to depends on which response of a pair wins more often, not on how often: each pair by
    itself would settle at a margin of ±1/β. No closed form is known.
    """

    Config = SLiCConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; 1 where the policy is the reference."""
        return (1 - self.config.beta * pair.margin).clamp(min=0.0)
