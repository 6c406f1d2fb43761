"""Anchored preference optimisation (arXiv 2408.06266, eq. 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from preflab import Pair, Pairwise, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class APOConfig:
    """Fields of APO."""

    beta: float = option(0.1, "scale of the log-ratios, as in DPO", minimum=1e-6, tuned=(0.2, 5.0))
    variant: Literal["zero", "down"] = option(
        "zero", "zero: chosen responses are better than the policy's own and gain likelihood; down: worse, and lose it"
    )


class APO(Pairwise):
    """L = 1 − σ(u_chosen) + σ(u_rejected) with u = β log π/π_ref (variant zero).

    Variant down: L = σ(u_chosen) + 1 − σ(u_chosen − u_rejected).

    DPO fixes the difference of the two only; here it is said which way each moves. It is not known what it converges
    to: the loss has no finite minimum in u, and only the saturation of σ ends the growth.
    """

    Config = APOConfig

    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``; 1 where the policy is the reference."""
        chosen, rejected = (self.config.beta * pair.logratios).unbind(-1)
        if self.config.variant == "zero":
            return (-chosen).sigmoid() + rejected.sigmoid()
        return chosen.sigmoid() + (rejected - chosen).sigmoid()
