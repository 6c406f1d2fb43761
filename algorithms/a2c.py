"""Advantage actor-critic (arXiv 1602.01783) with generalised advantage estimation (1506.02438)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from preflab import (
    Batch,
    Loss,
    Mean,
    Needs,
    Rollout,
    Scores,
    TokenPolicyGradient,
    TokenPolicyGradientConfig,
    at_last_token,
    discounted_advantages,
    masked_sum,
    mean_of,
    option,
    whiten,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class A2CConfig(TokenPolicyGradientConfig):
    """Fields of A2C, beside those of every token-wise policy-gradient method: one step per rollout, no clip."""

    rollout_prompts: int = option(32, "prompts sampled at a time, per device", minimum=1)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)
    gamma: float = option(1.0, "discount γ", minimum=0.0, maximum=1.0)
    gae_lambda: float = option(0.95, "λ of generalised advantage estimation", minimum=0.0, maximum=1.0)
    value_coefficient: float = option(0.1, "c: weight of the value loss", minimum=0.0)
    value_trunk: Literal["own", "policy"] = option(
        "own", "own: an adapter for the value; policy: a head on the policy's, which learns from both losses"
    )
    value_warmup_rollouts: int = option(0, "rollouts on which only the value learns", minimum=0)
    whiten_advantages: bool = option(True, "give advantages zero mean and unit variance over the rollout")
    whiten_rewards: bool = option(False, "give token rewards unit variance over the rollout (mean kept)")
    bootstrap_truncated: bool = option(
        False, "a response cut at the length limit gets the value of its last state in place of a score"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bootstrap_truncated and (self.missing_end_penalty, self.missing_end_score) != (None, None):
            raise ValueError("bootstrap_truncated replaces the score that missing_end_* would change; set one of them")


class A2C(TokenPolicyGradient):
    """L_t = −ρ_t A_t + c · ½ (V_t − R_t)², per response token; ρ is 1 on the one step taken on a rollout.

    The reward of token t is −β (log π_old − log π_ref) and, at the last response token, the reward
    model's score besides. A and R = A + V come from generalised advantage estimation. A response cut at
    the length limit is treated as ended, unless its score is bootstrapped.
    """

    Config = A2CConfig
    needs: Needs = Needs(
        responses="sampled",
        scores=("policy", "value"),
        trains=("policy", "value"),
        rollout=("policy", "reference", "reward", "value"),
        unit="token",
        separable=True,
    )
    metrics: Mapping[str, str] = {
        **TokenPolicyGradient.metrics,
        "value_loss": "squared error of the values (in PPO clipped), halved, per token",
        "value_error": "(V − R)², per token",
        "return_variance": "(R − mean R)², per token of the rollout",
        "explained_variance": "1 − value_error / return_variance: 1 for a perfect value, 0 for the mean return",
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.state["rollouts"] = 0.0
        if config.value_trunk == "policy":
            self.needs = dataclasses.replace(self.needs, joint=True)

    def score(self, rollout: Rollout) -> Tensor:
        """Return the score of each response, ``[B, K]``; where bootstrapped, V of its last state."""
        score, values, mask = super().score(rollout), rollout.scores.values, rollout.batch.response_mask
        if not self.config.bootstrap_truncated:
            return score
        assert values is not None
        last_value = masked_sum(values, at_last_token(score.new_ones(score.shape), mask).bool())
        return score.where(rollout.ended, last_value)

    def feedback(self, rewards: Tensor, rollout: Rollout) -> dict[str, Tensor]:
        """Return ``behaviour_values``, ``advantages``, ``returns``, ``return_deviation``; each ``[B, K, T]``."""
        config, mask, values = self.config, rollout.batch.response_mask, rollout.scores.values
        assert values is not None
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = discounted_advantages(rewards, values, mask, gamma=config.gamma, lam=config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        self.state["rollouts"] += 1
        if self.state["rollouts"] <= config.value_warmup_rollouts:
            advantages = advantages * 0
        return {
            "behaviour_values": values,
            "advantages": advantages,
            "returns": returns,
            "return_deviation": (returns - returns[mask].mean()).masked_fill(~mask, 0.0),
        }

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return the joint loss of policy and value, of the shape that `needs.unit` asks for."""
        assert scores.values is not None
        policy_loss, metrics = self.policy_loss(batch, scores)
        mask, feedback = batch.response_mask, batch.feedback
        value_loss = self.value_loss(scores.values, feedback)
        metrics |= {
            "value_loss": mean_of(value_loss, mask),
            "value_error": mean_of((scores.values - feedback["returns"]) ** 2, mask),
            "return_variance": mean_of(feedback["return_deviation"] ** 2, mask),
        }
        # A ratio of sums, so that micro-batches combine exactly.
        error, variance = metrics["value_error"].total, metrics["return_variance"].total
        metrics["explained_variance"] = Mean(variance - error, variance)
        return Loss(self.normalised(policy_loss + self.config.value_coefficient * value_loss, batch), metrics)

    def value_loss(self, values: Tensor, feedback: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each token's value, ``[B, K, T]``."""
        return 0.5 * (values - feedback["returns"]) ** 2

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return `optimum` for a value function that has become exact; then λ does not matter."""
        special = self.config.gamma < 1 or self.config.whiten_rewards or self.config.bootstrap_truncated
        return None if special else super().optimum(batch, scores)

    def optimum_of_loss(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Not known where whitening, or 1/length, changes the balance of reward and KL."""
        known = not self.config.whiten_advantages and self.config.loss_normalisation != "response"
        return super().optimum_of_loss(batch, scores) if known else None
