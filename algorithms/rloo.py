"""REINFORCE with the mean of the other samples of the prompt as baseline (RLOO; arXiv 2402.14740)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import STD_EPSILON, PolicyGradient, PolicyGradientConfig, Rollout, mean_of_others, moments, option

if TYPE_CHECKING:
    from torch import Tensor

    from preflab import Batch, Scores


@dataclass(frozen=True)
class RLOOConfig(PolicyGradientConfig):
    """Fields of RLOO, beside those of every policy-gradient method; with clip_range 0.2 it is TRL's RLOO."""

    rollout_prompts: int = option(32, "prompts sampled at a time, per device", minimum=1)
    samples_per_prompt: int = option(4, "k: responses per prompt", minimum=1)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)
    whiten_advantages: bool = option(False, "give advantages zero mean and unit deviation over the rollout")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(
                "RLOO's baseline is the mean of a prompt's other samples; set samples_per_prompt to 2 or more"
            )


class RLOO(PolicyGradient):
    """A_i = R_i − 1/(k−1) Σ_{j≠i} R_j, R = r − β log π/π_ref; L_i = −ρ_i A_i, ρ of the whole response."""

    Config = RLOOConfig

    def advantages(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Return the advantage of each response, ``[B, K]``."""
        advantages = rewards - mean_of_others(rewards)
        if not self.config.whiten_advantages:
            return advantages
        mean, variance = moments(advantages, rollout.batch.response_mask.any(-1))
        return (advantages - mean) / (variance.sqrt() + STD_EPSILON)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Whitening makes the balance with a KL in the loss depend on the rollout; then none is known."""
        known = self.config.kl_in == "reward" or not self.config.whiten_advantages
        return super().optimum(batch, scores) if known else None
