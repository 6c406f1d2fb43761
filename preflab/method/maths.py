"""Shared mathematics of the losses. Each piece stands here once.

Masks are explicit booleans of the same shape as the values; what is masked out changes nothing, not
even when it is NaN. No torch at import time (see `preflab.method.contract`): everything is a tensor method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def log_sigmoid(x: Tensor) -> Tensor:
    """Return log σ(x) = −log(1 + e^{−x}), stable for large |x|; any shape."""
    return -x.new_zeros(()).logaddexp(-x)


def log_odds(logps: Tensor) -> Tensor:
    """Return log(p / (1 − p)) for ``log p < 0``, any shape; log p is held 1e-6 below 0, where the odds end."""
    logps = logps.clamp(max=-1e-6)
    return logps - (-logps.expm1()).log()


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of ``x [..., T]`` over the last axis where ``mask [..., T]`` is true."""
    return x.masked_fill(~mask, 0.0).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``x [..., T]`` over the last axis where `mask` is true; 0 for empty rows."""
    return masked_sum(x, mask) / mask.sum(-1).clamp(min=1)


def plackett_luce(scores: Tensor, mask: Tensor, rank: Tensor | None = None) -> Tensor:
    """Return −log P(1 ≻ 2 ≻ … ≻ K) under Plackett-Luce, ``[B]`` (arXiv 2305.18290, eq. 18).

        −Σ_k [s_k − log Σ_{j ≥ k} e^{s_j}]

    For K = 2 this is Bradley-Terry's −log σ(s_1 − s_2). Of tied responses each is drawn from all that are not better,
    the others of its tie included: j runs over rank_j ≥ rank_k (Breslow 1974, for tied times of survival). Two that
    tie give −log σ(s_1 − s_2) − log σ(s_2 − s_1), least at equal scores.

    Args:
        scores: ``[B, K]``, best first.
        mask: bool ``[B, K]``, true on a prefix of each row.
        rank: ``[B, K]``, not falling along a row, equal where responses tie; None: none do.
    """
    scores = scores.masked_fill(~mask, 0.0)
    rest = scores.masked_fill(~mask, float("-inf")).flip(-1).logcumsumexp(-1).flip(-1)
    if rank is not None:
        rest = rest.gather(-1, first_of_tie(rank))
    return masked_sum(rest.masked_fill(~mask, 0.0) - scores, mask)


def first_of_tie(rank: Tensor) -> Tensor:
    """Return for each response the index of the first one that it ties with, itself where it ties with none before.

    Args:
        rank: ``[B, K]``, not falling along a row.
    """
    begins = rank.diff(dim=-1, prepend=rank[:, :1] - 1) != 0
    index = (begins | True).cumsum(-1) - 1
    return index.masked_fill(~begins, 0).cummax(-1).values


def kl_regularised_optimum(reference_logps: Tensor, rewards: Tensor, beta: float, mask: Tensor) -> Tensor:
    """Return log π*(y|x) of max E_π[r] − β KL(π‖π_ref): π* ∝ π_ref e^{r/β} (arXiv 2305.18290, eq. 4).

    Args:
        reference_logps: ``[B, K]`` log π_ref of every possible response.
        rewards: ``[B, K]`` r.
        beta: β.
        mask: bool ``[B, K]``; −inf comes back where it is false.
    """
    tilted = (reference_logps + rewards / beta).masked_fill(~mask, float("-inf"))
    return tilted.log_softmax(-1)


def win_probability(reference_logps: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """Return P(y) = E_{y' ~ π_ref} σ(r(y) − r(y')), ``[B, K]``: how often y is preferred to the reference's response.

    Args:
        reference_logps: ``[B, K]`` log π_ref of every possible response.
        rewards: ``[B, K]`` r; preferences follow Bradley-Terry.
        mask: bool ``[B, K]``; responses where it is false are drawn by nobody.
    """
    reference = reference_logps.masked_fill(~mask, float("-inf")).softmax(-1)
    rewards = rewards.masked_fill(~mask, 0.0)
    beats = (rewards.unsqueeze(-1) - rewards.unsqueeze(-2)).sigmoid()
    return (beats @ reference.unsqueeze(-1)).squeeze(-1)


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of `x` over all true entries of `mask`, on all ranks."""
    clean = x.masked_fill(~mask, 0.0)
    count, total = sum_over_ranks(mask.sum().to(x.dtype), clean.sum())
    mean = total / count.clamp(min=1)
    (squares,) = sum_over_ranks(((clean - mean).masked_fill(~mask, 0.0) ** 2).sum())
    return mean, squares / (count - 1).clamp(min=1)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Return `x` with unit variance (and zero mean) over all true entries of `mask`.

    The moments are those of the whole rollout (see `moments`). Masked entries come back as 0.
    """
    mean, variance = moments(x, mask)
    whitened = (x.masked_fill(~mask, 0.0) - mean) * (variance + epsilon).rsqrt()
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


# Added to a standard deviation that advantages are divided by; TRL's value.
STD_EPSILON = 1e-4


def mean_of_others(x: Tensor) -> Tensor:
    """Return for each entry of ``x [..., K]`` the mean of the other K − 1 (K ≥ 2): the leave-one-out baseline."""
    return (x.sum(-1, keepdim=True) - x) / (x.shape[-1] - 1)


def sum_over_ranks(*sums: Tensor) -> tuple[Tensor, ...]:
    """Return each tensor summed over all ranks, in place; as it is where there is one process."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        for value in sums:
            distributed.all_reduce(value)
    return sums


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


def kl_k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token estimate log π − log π_ref of KL(π‖π_ref) for y ~ π; signed, unbiased (k1)."""
    return logps - reference_logps


def kl_k2(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token estimate ½ (log π − log π_ref)²; biased, its gradient is the KL's (k2)."""
    return 0.5 * (logps - reference_logps) ** 2


def kl_k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token estimate e^{−u} − 1 + u with u = log π − log π_ref; unbiased, never negative (k3)."""
    difference = logps - reference_logps
    return (-difference).expm1() + difference


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def adapted_kl_coefficient(coefficient: float, kl: float, target: float, horizon: float, responses: float) -> float:
    """Return β for the next rollout (arXiv 1909.08593, section 2.2): higher where the KL is above its target.

        β ← β (1 + clip(KL / target − 1, −0.2, 0.2) · min(1, responses / horizon))

    Args:
        coefficient: β now.
        kl: mean KL(π‖π_ref) of the rollout, nats per response.
        target: what it should be.
        horizon: responses over which an error moves β by its own size.
        responses: how many the rollout has, on all ranks.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    # A rollout larger than the horizon would otherwise push β past 0.
    return coefficient * (1 + error * min(1.0, responses / horizon))


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


def at_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Place ``scores [..., ]`` on the last true token of ``mask [..., T]``; 0 elsewhere.

    That token is the action which ended the response, and so carries its score. (TRL's and
    OpenAI's code used the slot after it.) A row without tokens gets nothing.
    """
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return last.to(scores.dtype) * scores.unsqueeze(-1)


def explained_variance(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − Var(targets − predictions) / Var(targets) over true entries; 0 if targets are constant."""
    targets, errors = targets[mask], (targets - predictions)[mask]
    variance = targets.var(correction=0)
    if variance == 0:
        return variance
    explained: Tensor = 1 - errors.var(correction=0) / variance
    return explained
