"""Proximal policy optimisation for language models (arXiv 1707.06347; details of 2403.17031)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from preflab import (
    KL_TARGET_METRICS,
    POLICY_METRICS,
    VALUE_METRICS,
    ActorCriticConfig,
    ActorCriticFeedback,
    Batch,
    Loss,
    LossMethod,
    Needs,
    Rollout,
    Scores,
    behaviour,
    bootstrapped_scores,
    charged_rewards,
    clipped_surrogate,
    clipped_value_loss,
    discounted_advantages,
    importance_weighted,
    kl_penalty,
    loss_per_unit,
    next_kl_coefficient,
    option,
    policy_metrics,
    policy_ratio,
    response_scores,
    value_metrics,
    whiten,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PPOConfig(ActorCriticConfig):
    """Fields of PPO, beside those of every actor-critic: several passes over a rollout, held near it by clips."""

    rollout_prompts: int = option(128, "prompts sampled at a time, per device", minimum=1)
    rollout_epochs: int = option(4, "passes over each rollout before the next is sampled", minimum=1)
    clip_range: float | None = option(0.2, "ε: the ratio's gain ends at 1 ± ε; none: no clip", minimum=1e-6)
    value_clip_range: float | None = option(
        0.2, "values move at most this far from those of the rollout; none: no clip", minimum=1e-6
    )


class PPO(LossMethod):
    """L_t = −min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε) A_t) + c · ½ max((V_t−R_t)², (V_clip−R_t)²), per response token.

    ρ_t = π(y_t)/π_old(y_t). The reward of token t is −β (log π_old − log π_ref) and, at the last response token, the
    reward model's score besides. A and R = A + V come from generalised advantage estimation (1506.02438). A response
    cut at the length limit is treated as ended, unless its score is bootstrapped.
    """

    Config: ClassVar[type] = PPOConfig
    needs: Needs = Needs(
        responses="sampled",
        scores=("policy", "value"),
        trains=("policy", "value"),
        rollout=("policy", "reference", "reward", "value"),
        unit="token",
        separable=True,
    )
    # Adam's ε as in OpenAI's PPO; the library's 1e-8 lets tiny gradients move far.
    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "adam_epsilon": 1e-5}
    metrics: Mapping[str, str] = {**POLICY_METRICS, **VALUE_METRICS}

    def __init__(self, config: Any) -> None:
        self.config = config
        self.needs = dataclasses.replace(self.needs, unit=config.unit, joint=config.value_trunk == "policy")
        self.state: dict[str, float] = {"kl_coefficient": config.kl_coefficient, "rollouts": 0.0}
        if config.kl_target is not None:
            self.metrics = {**self.metrics, **KL_TARGET_METRICS}

    def prepare(self, rollout: Rollout) -> Batch[ActorCriticFeedback]:
        """Turn a rollout into advantages A and returns R; each ``[B, K, T]``, 0 on padding.

        r_t = −β (log π_old − log π_ref)(y_t), and the score besides at the last token
        A_t = Σ_l (γλ)^l δ_{t+l},   δ_t = r_t + γ V_{t+1} − V_t,   R_t = A_t + V_t
        """
        config, beta, mask = self.config, self.state["kl_coefficient"], rollout.batch.response_mask
        values, score = rollout.scores.values, response_scores(rollout, config)
        if config.bootstrap_truncated:
            score = bootstrapped_scores(score, rollout)
        rewards = charged_rewards(score, rollout, config, beta)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = discounted_advantages(rewards, values, mask, gamma=config.gamma, lam=config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        self.state["rollouts"] += 1
        if self.state["rollouts"] <= config.value_warmup_rollouts:
            advantages = advantages * 0  # the value alone learns
        self.state["kl_coefficient"] = next_kl_coefficient(rollout, config, beta)
        feedback = ActorCriticFeedback(
            **behaviour(rollout, config, beta),
            advantages=advantages,
            behaviour_values=values,
            returns=returns,
            return_deviation=(returns - returns[mask].mean()).masked_fill(~mask, 0.0),
        )
        return rollout.batch.replace(feedback=feedback)

    def loss(self, batch: Batch[ActorCriticFeedback], scores: Scores) -> Loss:
        """Return the joint loss of policy and value, of each token, or of each response (``loss_normalisation``).

        ρ_t = π(y_t)/π_old(y_t)
        L_t = −min(ρ_t A_t, clip(ρ_t) A_t) + [β KL_t, if it is in the loss] + c · ½ max((V−R)², (V_clip−R)²)
        """
        config, feedback, mask = self.config, batch.feedback, batch.response_mask
        ratio = policy_ratio(scores.logps, feedback.behaviour_logps, mask)
        policy_loss = importance_weighted(self.surrogate(ratio, feedback.advantages), feedback.importance_weights)
        value_loss = clipped_value_loss(
            scores.values, feedback.behaviour_values, feedback.returns, config.value_clip_range
        )
        metrics = {
            **policy_metrics(policy_loss, ratio, batch, scores, config),
            **value_metrics(value_loss, scores.values, feedback, mask),
        }
        if config.kl_in == "loss":
            policy_loss = policy_loss + kl_penalty(batch, scores, config)
        return Loss(loss_per_unit(policy_loss + config.value_coefficient * value_loss, mask, config), metrics)

    def surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Return −min(ρ A, clip(ρ, 1−ε, 1+ε) A) of each token, ``[B, K, T]``."""
        return -clipped_surrogate(ratio, advantages, *self.config.clip)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*, ``[B, K]``, for a value function that has become exact; then λ does not matter.

        With k1 in the reward: max E[r] − β KL, since there every response of a prompt has the same reward
        r − β log π*/π_ref. With the KL in the loss: see `preflab.method.stationary`.
        """
        from preflab.method.stationary import actor_critic_optimum

        return actor_critic_optimum(self.config, batch, scores)
