"""From a rollout to a loss: what the policy gradients share, in the order in which PPO calls it.

    rewards      response_scores, bootstrapped_scores, charged_rewards
    advantages   discounted_advantages (GAE), mean_of_others, whiten
    handed on    behaviour, next_kl_coefficient
    loss         policy_ratio, clipped_surrogate, importance_weighted, kl_penalty, clipped_value_loss, loss_per_unit
    metrics      policy_metrics, value_metrics

An action is a response token or, in some methods, the whole response; what is said of actions is ``[B, K, T]`` or
``[B, K]``. Masks are explicit, and what is masked out changes nothing, not even when it is NaN. No torch at import time
(see `preflab.method.contract`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preflab.method.contract import Batch, Mean, Rollout, Scores, Unit, mean_of, unit_mask
from preflab.method.feedback import ActorCriticFeedback, Behaviour
from preflab.method.maths import KL_ESTIMATORS, kl_k1, kl_k3, masked_mean, masked_sum, moments
from preflab.settings.policy_gradient import PolicyGradientConfig, TokenPolicyGradientConfig

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LOG_RATIO = 20.0  # nats; e^20 is far outside any clip
STD_EPSILON = 1e-4  # added to a standard deviation that advantages are divided by; TRL's value

# ---- rewards -----------------------------------------------------------------------------------------


def response_scores(rollout: Rollout, config: PolicyGradientConfig) -> Tensor:
    """Return the score of each response, ``[B, K]``: the reward model's, but for a missing end token."""
    scores = rollout.scores.rewards
    if config.missing_end_score is not None:
        return scores.masked_fill(~rollout.ended, config.missing_end_score)
    if config.missing_end_penalty is not None:
        return scores - config.missing_end_penalty * (~rollout.ended).to(scores.dtype)
    return scores


def bootstrapped_scores(scores: Tensor, rollout: Rollout) -> Tensor:
    """Return the scores, ``[B, K]``, with V of its last state in place of that of a response cut at the limit."""
    values, mask = rollout.scores.values, rollout.batch.response_mask
    last_value = masked_sum(values, at_last_token(scores.new_ones(scores.shape), mask).bool())
    return scores.where(rollout.ended, last_value)


def charged_rewards(
    scores: Tensor, rollout: Rollout, config: PolicyGradientConfig, coefficient: float, action: Unit = "token"
) -> Tensor:
    """Return the reward of each action: its score, less β KL where ``kl_in`` charges that to the reward.

    Args:
        scores: score of each response, ``[B, K]``; the last token bears it where the token is the action.
        rollout: log-probabilities of policy and reference.
        config: estimator of the KL, and where it is charged.
        coefficient: β.
        action: what is rewarded: ``[B, K, T]`` comes back for tokens, ``[B, K]`` for responses.
    """
    mask = rollout.batch.response_mask
    rewards = at_last_token(scores, mask) if action == "token" else scores
    if config.kl_in == "loss":
        return rewards
    return rewards - coefficient * _kl(rollout.scores.logps, rollout.scores.reference_logps, mask, config, action)


def at_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Place ``scores [..., ]`` on the last true token of ``mask [..., T]``; 0 elsewhere.

    That token is the action which ended the response, and so carries its score. (TRL's and
    OpenAI's code used the slot after it.) A row without tokens gets nothing.
    """
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return last.to(scores.dtype) * scores.unsqueeze(-1)


# ---- advantages --------------------------------------------------------------------------------------


def discounted_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16) and the value targets.

        δ_t = r_t + γ V_{t+1} − V_t,    A_t = Σ_l (γλ)^l δ_{t+l},    returns = A + V

    V after the last true token is 0: the response has ended.

    Args:
        rewards: ``[..., T]`` reward of choosing token t.
        values: ``[..., T]`` value of the state in which token t was chosen.
        mask: bool ``[..., T]``, true on a prefix of each row.
        gamma: discount γ.
        lam: λ; 1 gives returns minus values, 0 the one-step error.

    Returns:
        advantages and returns, ``[..., T]`` each, 0 on padding.
    """
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = values.new_zeros(values.shape)
    carried = next_value = values.new_zeros(values.shape[:-1])
    for t in reversed(range(values.shape[-1])):
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        carried = (delta + gamma * lam * carried).masked_fill(~mask[..., t], 0.0)
        advantages[..., t] = carried
        next_value = values[..., t]
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def mean_of_others(x: Tensor) -> Tensor:
    """Return for each entry of ``x [..., K]`` the mean of the other K − 1 (K ≥ 2): the leave-one-out baseline."""
    return (x.sum(-1, keepdim=True) - x) / (x.shape[-1] - 1)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Return `x` with unit variance (and zero mean) over all true entries of `mask`.

    The moments are those of the whole rollout (see `moments`). Masked entries come back as 0.
    """
    mean, variance = moments(x, mask)
    whitened = (x.masked_fill(~mask, 0.0) - mean) * (variance + epsilon).rsqrt()
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


# ---- what a rollout hands on to the loss -------------------------------------------------------------


def behaviour(
    rollout: Rollout, config: PolicyGradientConfig, coefficient: float, action: Unit = "token"
) -> dict[str, Tensor]:
    """Return the fields of `Behaviour`: what every loss reads of a rollout, whatever its advantages."""
    mask, logps = rollout.batch.response_mask, rollout.scores.logps
    drawn = logps if rollout.sampler_logps is None else rollout.sampler_logps
    return {
        "behaviour_logps": logps,
        "reference_logps": rollout.scores.reference_logps,
        "kl_coefficient": logps.new_full((len(logps),), coefficient),
        "importance_weights": policy_ratio(logps, drawn, mask, action).clamp(max=config.importance_cap),
    }


def next_kl_coefficient(rollout: Rollout, config: PolicyGradientConfig, coefficient: float) -> float:
    """Return β for the next rollout: as it is, unless a target for the KL says otherwise."""
    if config.kl_target is None:
        return coefficient
    mask = rollout.batch.response_mask
    kl = masked_sum(kl_k1(rollout.scores.logps, rollout.scores.reference_logps), mask).sum()
    responses = mask.any(-1).sum().to(kl.dtype)
    mean = (kl / responses).item()
    return adapted_kl_coefficient(coefficient, mean, config.kl_target, config.kl_horizon, responses.item())


def adapted_kl_coefficient(coefficient: float, kl: float, target: float, horizon: float, responses: float) -> float:
    """Return β for the next rollout (arXiv 1909.08593, section 2.2): higher where the KL is above its target.

        β ← β (1 + clip(KL / target − 1, −0.2, 0.2) · min(1, responses / horizon))

    Args:
        coefficient: β now.
        kl: mean KL(π‖π_ref) of the rollout, nats per response.
        target: what it should be.
        horizon: responses over which an error moves β by its own size.
        responses: how many the rollout has.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    # A rollout larger than the horizon would otherwise push β past 0.
    return coefficient * (1 + error * min(1.0, responses / horizon))


# ---- loss --------------------------------------------------------------------------------------------


def policy_ratio(logps: Tensor, behaviour_logps: Tensor, mask: Tensor, action: Unit = "token") -> Tensor:
    """Return ρ = π/π_old of each action, 1 on padding; held within e^±20, so that no response's ratio overflows.

    Args:
        logps: ``[B, K, T]`` log π of each token, now.
        behaviour_logps: the same when the rollout was drawn.
        mask: bool ``[B, K, T]``.
        action: what has a ratio: ``[B, K, T]`` comes back for tokens, ``[B, K]`` for responses.
    """
    return _log_ratio(logps, behaviour_logps, mask, action).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def _log_ratio(logps: Tensor, others: Tensor, mask: Tensor, action: Unit) -> Tensor:
    # A response's is the sum: a mean over tokens would weigh each response by 1/length. Padding is zeroed before
    # exp: junk there must not reach the loss, not even as inf · 0.
    difference = logps - others
    return masked_sum(difference, mask) if action == "response" else difference.masked_fill(~mask, 0.0)


def _kl(logps: Tensor, reference: Tensor, mask: Tensor, config: PolicyGradientConfig, action: Unit) -> Tensor:
    """Return the estimate of KL(π‖π_ref) of each action."""
    log_ratio = _log_ratio(logps, reference, mask, action)
    return KL_ESTIMATORS[config.kl_estimator](log_ratio, log_ratio.new_zeros(()))


def clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Return min(ρ A, clip(ρ, 1 − low, 1 + high) A), to be maximised (arXiv 1707.06347, eq. 7); ρ A without clips.

    Args:
        ratio: ρ = π/π_old of each action; any shape.
        advantages: A, of the same shape.
        low: how far below 1 the ratio still gains; None: any distance.
        high: the same above 1.
    """
    if low is None and high is None:
        return ratio * advantages
    clipped = ratio.clamp(None if low is None else 1 - low, None if high is None else 1 + high)
    return (ratio * advantages).minimum(clipped * advantages)


def importance_weighted(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the surrogate of each action times its importance weight, ``[B, K]`` or ``[B, K, T]``.

    Raises:
        ValueError: unless each action has a loss of its own: a mean would be spread over all of them.
    """
    if losses.shape != weights.shape:
        raise ValueError(
            f"the surrogate is {tuple(losses.shape)}; it must be the loss of each action, {tuple(weights.shape)}"
        )
    return losses * weights


def kl_penalty(batch: Batch[Behaviour], scores: Scores, config: PolicyGradientConfig, action: Unit = "token") -> Tensor:
    """Return β KL(π‖π_ref) of each action, for methods that add it to the loss."""
    kl = _kl(scores.logps, batch.feedback.reference_logps, batch.response_mask, config, action)
    return batch.feedback.kl_coefficient.view(-1, *[1] * (kl.ndim - 1)) * kl


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, width: float | None) -> Tensor:
    """Return ½ max((V − R)², (V_clip − R)²), V_clip = V_old + clip(V − V_old, −width, width); any shape.

    It stops pulling where the value has moved far enough towards R. (OpenAI's code of 1707.06347; detail 13 of
    2403.17031.)

    Args:
        values: V, now.
        old_values: V when the rollout was drawn.
        returns: R.
        width: how far V may move; None: no clip.
    """
    loss = 0.5 * (values - returns) ** 2
    if width is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-width, width)
    return loss.maximum(0.5 * (clipped - returns) ** 2)


def loss_per_unit(losses: Tensor, mask: Tensor, config: TokenPolicyGradientConfig) -> Tensor:
    """Turn losses of tokens, ``[B, K, T]``, into those of units: ``[B, K]`` unless the token is the unit."""
    if config.loss_normalisation == "token":
        return losses
    if config.loss_normalisation == "response":
        return masked_mean(losses, mask)
    return masked_sum(losses, mask) / config.loss_constant


# ---- metrics -----------------------------------------------------------------------------------------

POLICY_METRICS = {
    "policy_loss": "surrogate, per action; without the KL, where that is in the loss",
    "clip_fraction": "share of actions whose ratio left its clip; 0 without one",
    "approx_kl": "k3 estimate of KL(π_old‖π), nats per token",
    "ratio": "π/π_old, mean over actions; 1 on the first minibatch of a rollout",
}
KL_TARGET_METRICS = {"kl_coefficient": "β, as adapted to the target"}
VALUE_METRICS = {
    "value_loss": "squared error of the values (in PPO clipped), halved, per token",
    "value_error": "(V − R)², per token",
    "return_variance": "(R − mean R)², per token of the rollout",
    "explained_variance": "1 − value_error / return_variance: 1 for a perfect value, 0 for the mean return",
}


def policy_metrics(
    losses: Tensor, ratio: Tensor, batch: Batch, scores: Scores, config: PolicyGradientConfig
) -> dict[str, Mean]:
    """Return `POLICY_METRICS`, and `KL_TARGET_METRICS` where there is a target.

    Args:
        losses: surrogate of each action, ``[B, K]`` or ``[B, K, T]``.
        ratio: ρ of each action.
        batch: with the rollout's feedback.
        scores: log-probabilities, now.
        config: the clip, and whether β is adapted.
    """
    mask = unit_mask(batch, "token" if ratio.ndim == 3 else "response")
    low, high = config.clip
    outside = mask & False if low is None or high is None else (ratio < 1 - low) | (ratio > 1 + high)
    found = {
        "policy_loss": mean_of(losses, mask),
        "clip_fraction": mean_of(outside, mask),
        "approx_kl": mean_of(kl_k3(batch.feedback.behaviour_logps, scores.logps), batch.response_mask),
        "ratio": mean_of(ratio, mask),
    }
    if config.kl_target is not None:
        found["kl_coefficient"] = mean_of(batch.feedback.kl_coefficient)
    return found


def value_metrics(losses: Tensor, values: Tensor, feedback: ActorCriticFeedback, mask: Tensor) -> dict[str, Mean]:
    """Return `VALUE_METRICS`, from the value loss and the value of each token, ``[B, K, T]``."""
    error = mean_of((values - feedback.returns) ** 2, mask)
    variance = mean_of(feedback.return_deviation**2, mask)
    return {
        "value_loss": mean_of(losses, mask),
        "value_error": error,
        "return_variance": variance,
        # A ratio of sums, so that micro-batches combine exactly.
        "explained_variance": Mean(variance.total - error.total, variance.total),
    }
