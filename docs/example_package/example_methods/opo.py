"""Policy gradient with the reward baseline of least variance (OPO; arXiv 2505.23585)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, PolicyGradient, PolicyGradientConfig, Rollout, Scores, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OPOConfig(PolicyGradientConfig):
    """Fields of OPO, beside those of every policy-gradient method."""

    rollout_prompts: int = option(32, "prompts sampled at a time, per device", minimum=1)
    samples_per_prompt: int = option(4, "k: responses per prompt", minimum=2)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)


class OPO(PolicyGradient):
    """A_i = R_i − Σ_j |y_j| R_j / Σ_j |y_j|, R = r − β log π/π_ref: longer responses vary the gradient more."""

    Config = OPOConfig

    def advantages(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Return the advantage of each response, ``[B, K]``."""
        lengths = rollout.batch.response_mask.sum(-1).to(rewards.dtype)
        return rewards - (lengths * rewards).sum(1, keepdim=True) / lengths.sum(1, keepdim=True).clamp(min=1)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """With the KL in the loss, the baseline, which holds the sample itself, shifts the optimum: None then."""
        return super().optimum(batch, scores) if self.config.kl_in == "reward" else None
