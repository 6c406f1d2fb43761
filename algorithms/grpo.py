"""Group-relative policy optimisation (arXiv 2402.03300), with the corrections of Dr. GRPO (2503.20783) as options.

Dr. GRPO is ``scale_rewards: none`` with ``loss_normalisation: constant``; DAPO's (2503.14476) loss is
``loss_normalisation: token`` with ``clip_range_high: 0.28``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from preflab import STD_EPSILON, Rollout, TokenPolicyGradient, TokenPolicyGradientConfig, moments, option

if TYPE_CHECKING:
    from torch import Tensor

    from preflab import Batch, Scores


@dataclass(frozen=True)
class GRPOConfig(TokenPolicyGradientConfig):
    """Fields of GRPO, beside those of every token-wise policy-gradient method."""

    rollout_prompts: int = option(32, "prompts sampled at a time, per device", minimum=1)
    samples_per_prompt: int = option(4, "k: responses per prompt, the group", minimum=1)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "divide advantages by the rewards' standard deviation, over the group or the rollout"
    )
    loss_normalisation: Literal["token", "response", "constant"] = option(
        "response",
        "response: mean over the tokens of a response, then over responses; token: mean over all tokens of an "
        "optimiser batch; constant: sum over the tokens of a response, by loss_constant",
    )
    kl_coefficient: float = option(0.04, "β: price of a nat of KL to the reference", minimum=0.0, tuned=(0.2, 5.0))
    kl_estimator: Literal["k1", "k2", "k3"] = option("k3", "estimator of the KL of a token, from its log-ratio")
    kl_in: Literal["reward", "loss"] = option("loss", "where β · KL is charged")
    clip_range: float | None = option(0.2, "ε: the ratio's gain ends at 1 ± ε; none: no clip", minimum=1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(
                "GRPO compares the samples of a prompt: with a group of 1 every advantage is 0 and nothing is "
                "learnt, whatever scale_rewards; set samples_per_prompt to 2 or more"
            )


class GRPO(TokenPolicyGradient):
    """L_t = −min(ρ_t A, clip(ρ_t) A) + β KL_t,  A_i = (r_i − mean r) / (std r + 1e-4) over the group."""

    Config = GRPOConfig

    def advantages(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Return the advantage of each response, ``[B, K]``; all its tokens share it."""
        rewards = rewards.sum(-1)
        advantages = rewards - rewards.mean(1, keepdim=True)
        if self.config.scale_rewards == "none":
            return advantages
        if self.config.scale_rewards == "group":
            return advantages / (rewards.std(1, keepdim=True) + STD_EPSILON)
        _, variance = moments(rewards, rollout.batch.response_mask.any(-1))
        return advantages / (variance.sqrt() + STD_EPSILON)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*, ``[B, K]``; with the KL in the loss, by the advantages that groups of k give on average."""
        from preflab.method.stationary import policy_gradient_optimum

        return policy_gradient_optimum(self.config, batch, scores, expected=self.expected_advantages)

    def expected_advantages(self, rewards: Tensor, probabilities: Tensor) -> Tensor:
        """Return E[A | y], ``[B, K]``: the group's mean holds y itself, and the deviation is the group's."""
        from preflab.method.stationary import group_standardised

        k = self.config.samples_per_prompt
        if self.config.scale_rewards == "group":
            return group_standardised(rewards, probabilities, k, STD_EPSILON)
        centred = rewards - (probabilities * rewards).sum(-1, keepdim=True)
        if self.config.scale_rewards == "batch":
            everywhere = probabilities / len(probabilities)
            mean = (everywhere * rewards).sum()
            centred = centred / ((everywhere * (rewards - mean) ** 2).sum().sqrt() + STD_EPSILON)
        return centred * (k - 1) / k
