"""Reward modelling by Plackett-Luce, over whole rankings (arXiv 2305.18290, eq. 18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Labels, Needs, option, plackett_luce
from preflab.algorithms.reward import Reward

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RewardPLConfig:
    """Fields of the Plackett-Luce reward model."""

    centre_coefficient: float = option(0.0, "c: weight of (2 · mean score)², which holds scores near 0", minimum=0.0)


class RewardPL(Reward):
    """L = −Σ_k log [e^{r_k} / Σ_{j ≥ k} e^{r_j}] + c (2 mean_k r_k)², responses best first.

    The best response is drawn from all in proportion to e^r, the second from the rest, and so on. With two
    responses this is Bradley-Terry. Of responses that tie, each is drawn from all that are ranked no better.
    """

    Config = RewardPLConfig
    needs = Needs(responses="ranking", scores=("reward",), trains=("reward",))

    def nll(self, rewards: Tensor, mask: Tensor, labels: Labels) -> Tensor:
        """Return −log P of the ranking, ``[B]``, given scores and their mask ``[B, K]``."""
        return plackett_luce(rewards, mask, labels.rank)
