"""Self-play preference optimisation on given pairs (arXiv 2405.00675, eq. 4.7, with hard labels)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Pair, Pairwise, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SPPOConfig:
    """Fields of SPPO."""

    beta: float = option(
        0.1,
        "1/η of the paper: each log-ratio is pulled to ±1/(2β) nats; the paper's 1e-3 asks for 500",
        minimum=1e-6,
        tuned=(0.2, 5.0),
    )


class SPPO(Pairwise):
    """L = (log π/π_ref(chosen) − 1/(2β))² + (log π/π_ref(rejected) + 1/(2β))².

    One round of SPPO: the paper samples the pairs from the reference and puts the new policy in its place.

    Fits log π/π_ref(y) to (P(y) − ½)/β, with P(y) how often y is preferred to the reference's response: IPO's
    optimum with ½/β for the logarithm of its normaliser. That is no distribution in general, and the one nearest to
    it has no closed form.
    """

    Config = SPPOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; 1/(2β²) where the policy is the reference."""
        target = 1 / (2 * self.config.beta)
        chosen, rejected = pair.logratios.unbind(-1)
        return (chosen - target) ** 2 + (rejected + target) ** 2
