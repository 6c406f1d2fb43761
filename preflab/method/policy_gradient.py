"""The base of policy gradients that differ in their advantages, their ratio or their surrogate alone."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from preflab.method.advantages_and_ratios import (
    KL_TARGET_METRICS,
    POLICY_METRICS,
    behaviour,
    charged_rewards,
    clipped_surrogate,
    importance_weighted,
    kl_penalty,
    loss_per_unit,
    next_kl_coefficient,
    policy_metrics,
    policy_ratio,
    response_scores,
)
from preflab.method.contract import Batch, Loss, LossMethod, Needs, Rollout, Scores, Unit
from preflab.method.feedback import PolicyFeedback

if TYPE_CHECKING:
    from torch import Tensor


class PolicyGradient(LossMethod):
    """Base of methods that follow A ∇log π: define ``Config`` and `advantages`, nothing else.

        L = −min(ρ A, clip(ρ, 1−ε, 1+ε) A),  ρ = π(y|x)/π_old(y|x)

    The whole response is one action, so that log π(y|x) is the *sum* over its tokens and the loss is one
    number per response: a mean over tokens would weigh each response by 1/length. (For methods in
    which each token is an action, see `TokenPolicyGradient`.) Without ``clip_range`` it is L = −ρ A.

    β times an estimate of KL(π‖π_ref), made from the log-ratio of the action, is subtracted from the
    reward before advantages are taken, or added to L (``kl_in``).

    Where another engine drew the responses, its π_engine is not quite π_old. The surrogate of each action then has
    the constant weight min(π_old/π_engine, ``importance_cap``): truncated importance sampling (Ionides 2008). The
    KL in the loss has none.
    """

    needs: Needs = Needs(
        responses="sampled", scores=("policy",), rollout=("policy", "reference", "reward"), unit="response"
    )
    # Adam's ε as in OpenAI's PPO; the library's 1e-8 lets tiny gradients move far.
    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "adam_epsilon": 1e-5}
    metrics: Mapping[str, str] = POLICY_METRICS
    action: ClassVar[Unit] = "response"

    def __init__(self, config: Any) -> None:
        self.config = config
        self.needs = dataclasses.replace(self.needs, unit=config.unit)
        self.state: dict[str, float] = {"kl_coefficient": config.kl_coefficient}
        if config.kl_target is not None:
            self.metrics = {**self.metrics, **KL_TARGET_METRICS}

    def prepare(self, rollout: Rollout) -> Batch[PolicyFeedback]:
        """Turn a rollout into rewards and advantages: the feedback of `loss`."""
        beta = self.state["kl_coefficient"]
        rewards = charged_rewards(response_scores(rollout, self.config), rollout, self.config, beta, self.action)
        advantages, shapes = self.advantages(rewards, rollout), {rewards.shape[:2], rewards.shape}
        if advantages.shape not in shapes:  # another one might be spread over responses or tokens
            wanted = " or ".join(str(tuple(shape)) for shape in sorted(shapes, key=len))
            raise ValueError(f"the advantages are {tuple(advantages.shape)}; they must be {wanted}")
        feedback = PolicyFeedback(**behaviour(rollout, self.config, beta, self.action), advantages=advantages)
        self.state["kl_coefficient"] = next_kl_coefficient(rollout, self.config, beta)
        return rollout.batch.replace(feedback=feedback)

    def loss(self, batch: Batch[PolicyFeedback], scores: Scores) -> Loss:
        """Return the loss of each action: its surrogate, and β KL where that is in the loss."""
        feedback, mask = batch.feedback, batch.response_mask
        ratio, advantages = self.ratio(scores.logps, feedback.behaviour_logps, mask), feedback.advantages
        if advantages.ndim < ratio.ndim:
            advantages = advantages.unsqueeze(-1)
        losses = importance_weighted(self.surrogate(ratio, advantages), feedback.importance_weights)
        metrics = policy_metrics(losses, ratio, batch, scores, self.config)
        if self.config.kl_in == "loss":
            losses = losses + kl_penalty(batch, scores, self.config, self.action)
        return Loss(losses, metrics)

    # ---- what methods differ in ------------------------------------------------------------------

    @abstractmethod
    def advantages(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Return the advantage of each action, of a whole rollout.

        Args:
            rewards: reward of each action, KL subtracted where it is charged there: ``[B, K]`` where the
                response is the action, ``[B, K, T]`` (0 on padding) where the token is.
            rollout: responses and what the roles say of them.

        Returns:
            ``[B, K]``, or ``[B, K, T]`` if advantages differ between the tokens, which then are the actions.
        """

    def ratio(self, logps: Tensor, behaviour_logps: Tensor, mask: Tensor) -> Tensor:
        """Return ρ of each action, ``[B, K]`` or ``[B, K, T]``, from log-probabilities ``[B, K, T]`` now and then."""
        return policy_ratio(logps, behaviour_logps, mask, self.action)

    def surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Return the loss of each action, of the shape of `ratio`: −min(ρ A, clip(ρ, 1−ε, 1+ε) A).

        Args:
            ratio: ρ of each action, 1 on padding.
            advantages: A of each action, or ``[B, K, 1]`` where the tokens of a response share it.
        """
        return -clipped_surrogate(ratio, advantages, *self.config.clip)

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*, ``[B, K]``, at which the expected gradient vanishes; None where it is not known.

        With k1 in the reward: max E[r] − β KL, since there every response of a prompt has the same reward
        r − β log π*/π_ref, and every centred or scaled advantage of it is 0. (k2 or k3 in the reward
        punishes leaving the reference in either direction, and has several such points.) With the KL
        in the loss: see `preflab.method.stationary`.
        """
        from preflab.method.stationary import policy_gradient_optimum

        return policy_gradient_optimum(self.config, batch, scores, self.action)


class TokenPolicyGradient(PolicyGradient):
    """Base of methods in which each token is an action: define ``Config`` and `advantages`, nothing else.

        L_t = −min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε) A_t),  ρ_t = π(y_t|x, y_<t)/π_old(y_t|x, y_<t)

    A KL in the reward is charged to the token that causes it; in the loss, L_t gains β KL_t.
    """

    needs: Needs = dataclasses.replace(PolicyGradient.needs, unit="token")
    action: ClassVar[Unit] = "token"

    def loss(self, batch: Batch[PolicyFeedback], scores: Scores) -> Loss:
        """Return the loss of each token, or of each response where ``loss_normalisation`` sums or averages it."""
        losses, metrics = super().loss(batch, scores)
        return Loss(loss_per_unit(losses, batch.response_mask, self.config), metrics)
