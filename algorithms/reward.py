"""Reward modelling by Bradley-Terry (arXiv 1706.03741; 2203.02155, eq. 1; margin: 2307.09288, eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from preflab import Batch, Labels, Loss, LossMethod, Needs, Scores, log_sigmoid, masked_mean, mean_of, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RewardConfig:
    """Fields of the Bradley-Terry reward model."""

    label_smoothing: float = option(0.0, "ε: share of labels taken to be wrong", minimum=0.0, maximum=0.49)
    centre_coefficient: float = option(0.0, "c: weight of (r_c + r_r)², which holds scores near 0", minimum=0.0)


class Reward(LossMethod):
    """L = −p log σ(Δ − m) − (1 − p) log σ(m − Δ) + c (r_c + r_r)², with Δ = r_c − r_r (centring: arXiv 2312.09244).

    p is the data's ``preference`` (else 1) after ε of the labels changed sides, m their ``margin`` (else 0), which
    is −m in the other order: L is then a cross-entropy, and at c = 0 least at Δ = m + log p/(1 − p).
    """

    Config: ClassVar[type] = RewardConfig
    needs = Needs(responses="pair", scores=("reward",), trains=("reward",))
    training = {"learning_rate": 1e-3}
    metrics = {
        "accuracy": "share of pairs whose better response scores higher",
        "margin": "score of the better response minus that of the worse, mean over pairs",
    }

    def __init__(self, config: Any) -> None:
        self.config = config

    def nll(self, rewards: Tensor, mask: Tensor, labels: Labels) -> Tensor:
        """Return −log P of the preference, ``[B]``, given scores and their mask ``[B, 2]``."""
        if rewards.shape[1] != 2:
            raise ValueError(f"the Bradley-Terry loss needs 2 responses a prompt, got {rewards.shape[1]}")
        smoothing, preference = self.config.label_smoothing, 1.0 if labels.preference is None else labels.preference
        preference = (1 - smoothing) * preference + smoothing * (1 - preference)
        lead = rewards[:, 0] - rewards[:, 1] - (0.0 if labels.margin is None else labels.margin)
        return -log_sigmoid(lead) + (1 - preference) * lead  # −log σ(−z) = z − log σ(z)

    def loss(self, batch: Batch[Labels], scores: Scores) -> Loss:
        """Return the loss of each prompt, ``[B]``."""
        rewards, mask = scores.rewards, batch.response_mask.any(-1)
        differences = rewards.unsqueeze(2) - rewards.unsqueeze(1)
        pairs = (mask.unsqueeze(2) & mask.unsqueeze(1)).triu(1)  # each response with every worse one
        if (rank := batch.feedback.rank) is not None:
            pairs &= rank.unsqueeze(2) != rank.unsqueeze(1)
        centring = (2 * masked_mean(rewards, mask)) ** 2
        return Loss(
            self.nll(rewards, mask, batch.feedback) + self.config.centre_coefficient * centring,
            {"accuracy": mean_of(differences > 0, pairs), "margin": mean_of(differences, pairs)},
        )
