"""Proximal policy optimisation for language models (arXiv 1707.06347; details of 2403.17031)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from preflab import (
    Batch,
    Loss,
    Needs,
    Rollout,
    RolloutConfig,
    Scores,
    at_last_token,
    discounted_advantages,
    kl_k1,
    kl_k3,
    mean_of,
    option,
    whiten,
)


@dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """Fields of PPO, beside those of every on-policy method."""

    kl_coefficient: float = option(0.05, "β: price of a nat of KL to the reference, in the reward", minimum=0.0)
    gamma: float = option(1.0, "discount γ", minimum=0.0, maximum=1.0)
    gae_lambda: float = option(0.95, "λ of generalised advantage estimation", minimum=0.0, maximum=1.0)
    clip_range: float = option(0.2, "ε: the ratio's gain ends at 1 ± ε", minimum=1e-6)
    value_clip_range: float = option(0.2, "values move at most this far from those of the rollout", minimum=1e-6)
    value_coefficient: float = option(0.1, "c: weight of the value loss", minimum=0.0)
    whiten_advantages: bool = option(True, "give advantages zero mean and unit variance over the rollout")
    whiten_rewards: bool = option(False, "give token rewards unit variance over the rollout (mean kept)")


class PPO:
    """L = −min(ρ A, clip(ρ, 1−ε, 1+ε) A) + c · ½ max((V−R)², (V_clip−R)²), per response token.

    ρ = π(y_t)/π_old(y_t). The reward of token t is −β (log π_old − log π_ref) and, at the last
    response token, the reward model's score besides. A and R come from generalised advantage
    estimation; a response cut at the length limit is treated as ended.
    """

    Config = PPOConfig
    needs: ClassVar[Needs] = Needs(
        responses="sampled",
        scores=("policy", "value"),
        trains=("policy", "value"),
        rollout=("policy", "reference", "reward", "value"),
        unit="token",
    )
    # Adam's ε: 1e-5 as in OpenAI's PPO; the library's 1e-8 lets tiny gradients move far.
    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "adam_epsilon": 1e-5}
    metrics: ClassVar[Mapping[str, str]] = {
        "policy_loss": "clipped surrogate, per token",
        "value_loss": "clipped squared error of the values, per token",
        "clip_fraction": "share of tokens whose ratio left 1 ± ε",
        "approx_kl": "k3 estimate of KL(π_old‖π), nats per token",
        "ratio": "π/π_old, mean over tokens; 1 on the first minibatch of a rollout",
        "value_error": "(V − R)², per token; 1 − its ratio to return_variance is the explained variance",
        "return_variance": "(R − mean R)², per token of the rollout",
    }

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def prepare(self, rollout: Rollout) -> Batch:
        """Rewards, advantages and returns of a whole rollout.

        Feedback: ``behaviour_logps``, ``behaviour_values``, ``advantages``, ``returns``,
        ``return_deviation``; each ``[B, K, T]``, 0 on padding.
        """
        config, mask = self.config, rollout.batch.response_mask
        logps, reference_logps, values, score = rollout.scores
        assert logps is not None
        assert reference_logps is not None
        assert values is not None
        assert score is not None
        kl = kl_k1(logps, reference_logps)
        rewards = at_last_token(score, mask) - config.kl_coefficient * kl
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = discounted_advantages(rewards, values, mask, gamma=config.gamma, lam=config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        deviation = (returns - returns[mask].mean()).masked_fill(~mask, 0.0)
        feedback = {
            "behaviour_logps": logps,
            "behaviour_values": values,
            "advantages": advantages,
            "returns": returns,
            "return_deviation": deviation,
        }
        return rollout.batch._replace(feedback=feedback)

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return the joint loss of policy and value of each token, ``[B, K, T]``."""
        assert scores.logps is not None
        assert scores.values is not None
        config, mask, feedback = self.config, batch.response_mask, batch.feedback
        old_logps, old_values = feedback["behaviour_logps"], feedback["behaviour_values"]
        # Padding is zeroed before exp: junk there must not reach the loss, not even as inf · 0.
        ratio = (scores.logps - old_logps).masked_fill(~mask, 0.0).exp()
        clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
        policy_loss = -(ratio * feedback["advantages"]).minimum(clipped * feedback["advantages"])

        drift = (scores.values - old_values).clamp(-config.value_clip_range, config.value_clip_range)
        errors = (scores.values - feedback["returns"]) ** 2
        clipped_errors = (old_values + drift - feedback["returns"]) ** 2
        value_loss = 0.5 * errors.maximum(clipped_errors)
        return Loss(
            policy_loss + config.value_coefficient * value_loss,
            {
                "policy_loss": mean_of(policy_loss, mask),
                "value_loss": mean_of(value_loss, mask),
                "clip_fraction": mean_of((ratio - 1).abs() > config.clip_range, mask),
                "approx_kl": mean_of(kl_k3(old_logps, scores.logps), mask),
                "ratio": mean_of(ratio, mask),
                "value_error": mean_of(errors, mask),
                "return_variance": mean_of(feedback["return_deviation"] ** 2, mask),
            },
        )
