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
    """Return mean and unbiased variance of `x` over all true entries of `mask`."""
    clean, count = x.masked_fill(~mask, 0.0), mask.sum().to(x.dtype)
    mean = clean.sum() / count.clamp(min=1)
    squares = ((clean - mean).masked_fill(~mask, 0.0) ** 2).sum()
    return mean, squares / (count - 1).clamp(min=1)


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


def explained_variance(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − Var(targets − predictions) / Var(targets) over true entries; 0 if targets are constant."""
    targets, errors = targets[mask], (targets - predictions)[mask]
    variance = targets.var(correction=0)
    if variance == 0:
        return variance
    explained: Tensor = 1 - errors.var(correction=0) / variance
    return explained
