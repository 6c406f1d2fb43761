"""What the policy-gradient methods share: everything but their advantages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from preflab.method.contract import Batch, Loss, LossMethod, Mean, Needs, Rollout, Scores, Unit, mean_of, unit_mask
from preflab.method.maths import (
    KL_ESTIMATORS,
    adapted_kl_coefficient,
    at_last_token,
    clipped_surrogate,
    kl_k1,
    kl_k3,
    kl_regularised_optimum,
    masked_mean,
    masked_sum,
    sum_over_ranks,
)
from preflab.settings.fields import option
from preflab.settings.training import RolloutConfig

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_LOG_RATIO = 20.0  # nats; e^20 is far outside any clip


@dataclass(frozen=True)
class PolicyGradientConfig(RolloutConfig):
    """What every policy-gradient method has: the price of KL, missing end tokens, the clip of the ratio."""

    kl_coefficient: float = option(0.05, "β: price of a nat of KL to the reference", minimum=0.0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k1", "estimator of the KL of an action, from its log-ratio")
    kl_in: Literal["reward", "loss"] = option("reward", "where β · KL is charged")
    kl_target: float | None = option(None, "adapt β so that KL (k1, nats per response) comes near this", minimum=1e-6)
    kl_horizon: float = option(10_000.0, "responses over which an error of the KL moves β by its own size", minimum=1.0)
    missing_end_penalty: float | None = option(
        None, "subtracted from the score of a response cut at the length limit", minimum=0.0
    )
    missing_end_score: float | None = option(None, "the score of a response cut at the length limit")
    clip_range: float | None = option(None, "ε: the ratio's gain ends at 1 ± ε; none: no clip", minimum=1e-6)
    clip_range_high: float | None = option(None, "ε above 1, if it is another one", minimum=1e-6)
    importance_cap: float = option(
        2.0, "where another engine samples: the most that an action's weight π_old/π_engine can be", minimum=1.0
    )

    def __post_init__(self) -> None:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator k1 with kl_in: loss has no effect: the gradient of log π is zero on average; "
                "set kl_estimator to k2 or k3, or kl_in to reward"
            )
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError("kl_target multiplies kl_coefficient, which is 0 and so stays 0; start from another one")
        if self.missing_end_penalty is not None and self.missing_end_score is not None:
            raise ValueError("missing_end_penalty and missing_end_score say different things; set one of them")
        if self.clip_range is None and self.clip_range_high is not None:
            raise ValueError("clip_range_high needs a clip_range")


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
    metrics: Mapping[str, str] = {
        "policy_loss": "surrogate, per action; without the KL, where that is in the loss",
        "clip_fraction": "share of actions whose ratio left its clip; 0 without one",
        "approx_kl": "k3 estimate of KL(π_old‖π), nats per token",
        "ratio": "π/π_old, mean over actions; 1 on the first minibatch of a rollout",
    }
    action: ClassVar[Unit] = "response"

    def __init__(self, config: Any) -> None:
        self.config = config
        self.state: dict[str, float] = {"kl_coefficient": config.kl_coefficient}
        if config.kl_target is not None:
            self.metrics = {**self.metrics, "kl_coefficient": "β, as adapted to the target"}

    def advantages(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Return the advantage of each action, of a whole rollout.

        Args:
            rewards: reward of each action, KL subtracted where it is charged there: ``[B, K]`` where the
                response is the action, ``[B, K, T]`` (0 on padding) where the token is.
            rollout: responses and what the roles say of them.

        Returns:
            ``[B, K]``, or ``[B, K, T]`` if advantages differ between the tokens of a response.
        """
        raise NotImplementedError

    def score(self, rollout: Rollout) -> Tensor:
        """Return the score of each response, ``[B, K]``: the reward model's, but for a missing end token."""
        score, config = rollout.scores.rewards, self.config
        assert score is not None
        if config.missing_end_score is not None:
            return score.masked_fill(~rollout.ended, config.missing_end_score)
        if config.missing_end_penalty is not None:
            return score - config.missing_end_penalty * (~rollout.ended).to(score.dtype)
        return score

    def feedback(self, rewards: Tensor, rollout: Rollout) -> dict[str, Tensor]:
        """Return what `loss` reads beside log-probabilities: the advantages, and whatever a method adds."""
        return {"advantages": self.advantages(rewards, rollout)}

    def prepare(self, rollout: Rollout) -> Batch:
        """Turn a rollout into rewards and advantages.

        Feedback: ``behaviour_logps [B, K, T]`` and what `feedback` returns; with the KL in the loss,
        ``reference_logps [B, K, T]`` and ``kl_coefficient [B]`` besides; where another engine drew the responses,
        ``importance_weights`` of actions, ``[B, K]`` or ``[B, K, T]``.
        """
        mask, (logps, reference, _, _) = rollout.batch.response_mask, rollout.scores
        assert logps is not None
        assert reference is not None
        coefficient = self.state["kl_coefficient"]
        score = self.score(rollout)
        rewards = at_last_token(score, mask) if self.action == "token" else score
        found = {"behaviour_logps": logps}
        if self.config.kl_in == "reward":
            rewards = rewards - coefficient * self._kl(logps, reference, mask)
        else:
            found["reference_logps"] = reference
        if self.config.kl_in == "loss" or self.config.kl_target is not None:
            found["kl_coefficient"] = logps.new_full((len(logps),), coefficient)
        if "sampler_logps" in rollout.batch.feedback:
            log_weight = self._of_actions(logps - rollout.batch.feedback["sampler_logps"], mask)
            found["importance_weights"] = _exp(log_weight).clamp(max=self.config.importance_cap)
        self._adapt(kl_k1(logps, reference), mask)
        return rollout.batch._replace(feedback={**found, **self.feedback(rewards, rollout)})

    def _adapt(self, kl: Tensor, mask: Tensor) -> None:
        if self.config.kl_target is None:
            return
        total, responses = sum_over_ranks(masked_sum(kl, mask).sum(), mask.any(-1).sum().to(kl.dtype))
        self.state["kl_coefficient"] = adapted_kl_coefficient(
            self.state["kl_coefficient"],
            (total / responses).item(),
            self.config.kl_target,
            self.config.kl_horizon,
            responses.item(),
        )

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return the unreduced loss, of the shape that `needs.unit` asks for."""
        losses, metrics = self.policy_loss(batch, scores)
        return Loss(self.normalised(losses, batch), metrics)

    def policy_loss(self, batch: Batch, scores: Scores) -> tuple[Tensor, dict[str, Mean]]:
        """Return the loss of each action and the metrics."""
        assert scores.logps is not None
        config, feedback, tokens = self.config, batch.feedback, batch.response_mask
        mask, advantages = unit_mask(batch, self.action), feedback["advantages"]
        if advantages.ndim < mask.ndim:
            advantages = advantages.unsqueeze(-1)
        # Padding is zeroed before exp: junk there must not reach the loss, not even as inf · 0. Nor may a whole
        # response's ratio overflow.
        log_ratio = self._of_actions(scores.logps - feedback["behaviour_logps"], tokens)
        ratio = _exp(log_ratio)
        low = config.clip_range
        high = low if config.clip_range_high is None else config.clip_range_high
        losses = -clipped_surrogate(ratio, advantages, low, high)
        if "importance_weights" in feedback:
            losses = losses * feedback["importance_weights"]
        outside = mask & False if low is None else (ratio < 1 - low) | (ratio > 1 + high)
        metrics = {
            "policy_loss": mean_of(losses, mask),
            "clip_fraction": mean_of(outside, mask),
            "approx_kl": mean_of(kl_k3(feedback["behaviour_logps"], scores.logps), tokens),
            "ratio": mean_of(ratio, mask),
        }
        if config.kl_in == "loss":
            coefficient = feedback["kl_coefficient"].view(-1, *[1] * (losses.ndim - 1))
            losses = losses + coefficient * self._kl(scores.logps, feedback["reference_logps"], tokens)
        if config.kl_target is not None:
            metrics["kl_coefficient"] = mean_of(feedback["kl_coefficient"])
        return losses, metrics

    def normalised(self, losses: Tensor, batch: Batch) -> Tensor:
        """Turn losses of actions into losses of units."""
        return losses

    def _of_actions(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(tokens, mask) if self.action == "response" else tokens.masked_fill(~mask, 0.0)

    def _kl(self, logps: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        log_ratio = self._of_actions(logps - reference, mask)
        return KL_ESTIMATORS[self.config.kl_estimator](log_ratio, log_ratio.new_zeros(()))

    # ---- where it converges to -------------------------------------------------------------------

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*, ``[B, K]``, at which the expected gradient vanishes; None where it is not known.

        With k1 in the reward: max E[r] − β KL, since there every response of a prompt has the same reward
        r − β log π*/π_ref, and every centred or scaled advantage of it is 0. (k2 or k3 in the reward
        punishes leaving the reference in either direction, and has several such points.) With the KL
        in the loss: see `preflab.method.stationary`.
        """
        config, tokens = self.config, batch.response_mask
        assert scores.reference_logps is not None
        assert scores.rewards is not None
        beta, special = config.kl_coefficient, (config.missing_end_penalty, config.missing_end_score, config.kl_target)
        if beta == 0 or config.reference_mixup or any(x is not None for x in special):
            return None
        if config.kl_in == "reward":
            reference = masked_sum(scores.reference_logps, tokens)
            optimum = kl_regularised_optimum(reference, scores.rewards, beta, tokens.any(-1))
            return optimum if config.kl_estimator == "k1" else None
        return self.optimum_of_loss(batch, scores)

    def optimum_of_loss(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return `optimum` where the KL is in the loss."""
        from preflab.method.stationary import stationary_policy

        return stationary_policy(self, batch, scores)

    def expected_advantages(self, rewards: Tensor, probabilities: Tensor) -> Tensor:
        """Return E[A | y], ``[B, K]``, if responses are drawn from ``probabilities [B, K]``: r − E[r]."""
        return rewards - (probabilities * rewards).sum(-1, keepdim=True)


def _exp(log_ratio: Tensor) -> Tensor:
    """Return e^x where that is far from overflowing, else the nearest value that is."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


@dataclass(frozen=True)
class TokenPolicyGradientConfig(PolicyGradientConfig):
    """How the losses of tokens are weighed, beside the fields of every policy-gradient method."""

    loss_normalisation: Literal["token", "response", "constant"] = option(
        "token",
        "token: mean over all tokens of an optimiser batch; response: mean over those of a response, then over "
        "responses; constant: sum over those of a response, by loss_constant",
    )
    loss_constant: float = option(
        1.0, "what the sum is divided by with loss_normalisation: constant, such as the length limit", minimum=1e-6
    )


class TokenPolicyGradient(PolicyGradient):
    """Base of methods in which each token is an action: define ``Config`` and `advantages`, nothing else.

        L_t = −min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε) A_t),  ρ_t = π(y_t|x, y_<t)/π_old(y_t|x, y_<t)

    A KL in the reward is charged to the token that causes it; in the loss, L_t gains β KL_t.
    """

    needs: Needs = dataclasses.replace(PolicyGradient.needs, unit="token")
    action: ClassVar[Unit] = "token"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.loss_normalisation != "token":
            self.needs = dataclasses.replace(self.needs, unit="response")

    def normalised(self, losses: Tensor, batch: Batch) -> Tensor:
        """Turn losses of tokens, ``[B, K, T]``, into those of units: ``[B, K]`` unless the token is the unit."""
        if self.config.loss_normalisation == "token":
            return losses
        if self.config.loss_normalisation == "response":
            return masked_mean(losses, batch.response_mask)
        return masked_sum(losses, batch.response_mask) / self.config.loss_constant
