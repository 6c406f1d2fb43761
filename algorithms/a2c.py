"""Advantage actor-critic (arXiv 1602.01783) with generalised advantage estimation (1506.02438).

It is PPO of one step on each rollout, where no clip has anything to do (2205.09123).
"""

from __future__ import annotations

from dataclasses import dataclass

from preflab import (
    ActorCriticConfig,
    ActorCriticFeedback,
    Batch,
    Loss,
    Scores,
    importance_weighted,
    kl_penalty,
    loss_per_unit,
    option,
    policy_metrics,
    policy_ratio,
    value_metrics,
)
from preflab.algorithms.ppo import PPO


@dataclass(frozen=True)
class A2CConfig(ActorCriticConfig):
    """Fields of A2C, beside those of every actor-critic: one step per rollout, no clip."""

    rollout_prompts: int = option(32, "prompts sampled at a time, per device", minimum=1)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)


class A2C(PPO):
    """L_t = −ρ_t A_t + c · ½ (V_t − R_t)², per response token; ρ is 1 on the one step taken on a rollout.

    Rewards, advantages A and returns R are those of PPO.
    """

    Config = A2CConfig

    def loss(self, batch: Batch[ActorCriticFeedback], scores: Scores) -> Loss:
        """Return the joint loss of policy and value, of each token, or of each response (``loss_normalisation``).

        ``L_t = −ρ_t A_t + [β KL_t, if it is in the loss] + c · ½ (V_t − R_t)²``; −ρ_t A_t ends at a ``clip_range``,
        where one is set.
        """
        config, feedback, mask = self.config, batch.feedback, batch.response_mask
        ratio = policy_ratio(scores.logps, feedback.behaviour_logps, mask)
        policy_loss = importance_weighted(self.surrogate(ratio, feedback.advantages), feedback.importance_weights)
        value_loss = 0.5 * (scores.values - feedback.returns) ** 2
        metrics = {
            **policy_metrics(policy_loss, ratio, batch, scores, config),
            **value_metrics(value_loss, scores.values, feedback, mask),
        }
        if config.kl_in == "loss":
            policy_loss = policy_loss + kl_penalty(batch, scores, config)
        return Loss(loss_per_unit(policy_loss + config.value_coefficient * value_loss, mask, config), metrics)
