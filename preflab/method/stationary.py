"""Where a policy gradient stands still, over an enumeration of all responses.

With the KL in the reward that is the KL-regularised optimum. With the KL in the *loss* it is another point. Such a
loss weighs, at each state s (a prompt and the tokens so far) that the policy visits, an advantage
against an estimate of the KL of the next token a alone:

    Σ_a π(a|s) [q(a) − β w(a) k'(u(a))] ∇log π(a|s) = 0,    u = log π(a|s)/π_ref(a|s)

q(a) = E[c A | s, a] and w(a) = E[c | s, a] are means over what the policy appends after a; c is the weight
of a response's tokens in the loss, 1 or 1/length. What a later token costs in KL is no part of q(a): this is
no gradient of E[r] − β KL, and the point is another one. For a softmax the bracket must be the same number λ_s
for every a, and the shares must sum to 1:

    k2, k' = u:                 π(a|s) = π_ref(a|s) exp((q − λ_s) / (β w))
    k3, k' = 1 − π_ref/π:       π(a|s) = π_ref(a|s) β w / (β w + λ_s − q)

Backwards from the last token, q and w are known once the states behind a are solved. Where A depends on
the policy itself (a baseline or a deviation of the rewards under it), this is repeated until it agrees.
The limits are those of the theory: many prompts per rollout, and steps so small that no ratio is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from preflab.method.contract import Batch, Scores, Unit
from preflab.method.maths import kl_regularised_optimum, masked_sum
from preflab.settings.policy_gradient import ActorCriticConfig, PolicyGradientConfig, TokenPolicyGradientConfig

ROUNDS = 50
# In probability: where rounds stop, and what drawn groups may leave of it.
TOLERANCE, SETTLED = 1e-12, 3e-4
# Groups drawn, quasi-randomly, for the expectation over the rest of a group: an error of some 1e-4.
GROUPS = 4096


Expected = Callable[[Tensor, Tensor], Tensor]
"""Rewards and probabilities of every response, ``[B, K]`` each, to its expected advantage."""


def centred(rewards: Tensor, probabilities: Tensor) -> Tensor:
    """Return E[A | y] = r − E[r], ``[B, K]``, if responses are drawn from ``probabilities [B, K]``."""
    return rewards - (probabilities * rewards).sum(-1, keepdim=True)


def policy_gradient_optimum(
    config: PolicyGradientConfig, batch: Batch, scores: Scores, action: Unit = "token", expected: Expected = centred
) -> Tensor | None:
    """Return log π*, ``[B, K]``, at which a policy gradient's expectation vanishes; None where it is not known.

    With k1 in the reward: max E[r] − β KL, since there every response of a prompt has the same reward
    r − β log π*/π_ref, and every centred or scaled advantage of it is 0. (k2 or k3 in the reward punishes leaving
    the reference in either direction, and has several such points.) With the KL in the loss: `stationary_policy`.

    Args:
        config: β, the estimator of the KL, and what else moves the point.
        batch: every possible response to each prompt.
        scores: ``reference_logps [B, K, T]`` and ``rewards [B, K]``, float64.
        action: a token or the whole response.
        expected: gives E[A | y] under a policy.
    """
    special = (config.missing_end_penalty, config.missing_end_score, config.kl_target)
    if config.kl_coefficient == 0 or config.reference_mixup or any(x is not None for x in special):
        return None
    if config.kl_in == "loss":
        return stationary_policy(config, batch, scores, action, expected)
    mask = batch.response_mask
    reference = masked_sum(scores.reference_logps, mask)
    optimum = kl_regularised_optimum(reference, scores.rewards, config.kl_coefficient, mask.any(-1))
    return optimum if config.kl_estimator == "k1" else None


def actor_critic_optimum(config: ActorCriticConfig, batch: Batch, scores: Scores) -> Tensor | None:
    """Return `policy_gradient_optimum` for a value function that has become exact; then λ does not matter.

    With the KL in the loss it is not known where whitening, or 1/length, changes the balance of reward and KL.
    """
    if config.gamma < 1 or config.whiten_rewards or config.bootstrap_truncated:
        return None
    if config.kl_in == "loss" and (config.whiten_advantages or config.loss_normalisation == "response"):
        return None
    return policy_gradient_optimum(config, batch, scores)


def stationary_policy(
    config: PolicyGradientConfig, batch: Batch, scores: Scores, action: Unit, expected: Expected
) -> Tensor | None:
    """Return log π*(y|x), ``[B, K]``, with the KL in the *loss* (see above); None if nothing settles.

    The arguments are those of `policy_gradient_optimum`.
    """
    mask = batch.response_mask
    present = mask.any(-1)
    rewards, reference = scores.rewards.masked_fill(~present, 0.0), scores.reference_logps.masked_fill(~mask, 0.0)
    weights = torch.ones_like(rewards)
    if isinstance(config, TokenPolicyGradientConfig) and config.loss_normalisation == "response":
        weights = 1 / mask.sum(-1).clamp(min=1).to(rewards.dtype)
    if action == "token":
        levels = _levels(batch.response_ids.cpu(), mask)
    else:  # one token, which says it all
        levels = _levels(torch.arange(mask.shape[1]).expand(mask.shape[:2]).unsqueeze(-1), present.unsqueeze(-1))
        reference = masked_sum(reference, mask).unsqueeze(-1)

    logps = reference.sum(-1).masked_fill(~present, float("-inf")).log_softmax(-1)
    # Smaller steps where whole ones overshoot.
    for step in (1.0, 0.5, 0.2, 0.1):
        for _ in range(ROUNDS):
            advantages = expected(rewards, logps.exp())
            found = _backwards(levels, reference, advantages, weights, config.kl_coefficient, config.kl_estimator)
            change = found.masked_fill(~present, float("-inf")).exp() - logps.exp()
            logps = (logps.exp() + step * change).log()
            if change.abs().max() < TOLERANCE:
                break
        if change.abs().max() < SETTLED:
            return logps
    return None


class _Level(NamedTuple):
    """Token t of every response: which rows have one, and which (state, token) and state each belongs to."""

    rows: Tensor
    child: Tensor
    state_of_child: Tensor


def _levels(ids: Tensor, mask: Tensor) -> list[_Level]:
    """Return the tree of prefixes, root first, over the rows of ``ids [B, K, T]`` laid end to end."""
    prompts, responses, width = ids.shape
    prompt = torch.arange(prompts).repeat_interleave(responses).unsqueeze(-1)
    paths = torch.cat([prompt, ids.masked_fill(~mask.cpu(), -1).flatten(0, 1)], 1)
    levels = []
    for t in range(width):
        rows = mask[..., t].flatten().nonzero().squeeze(-1).cpu()
        if len(rows):
            prefixes, child = _numbered(paths[rows, : t + 2])
            levels.append(_Level(rows, child, _numbered(prefixes[:, :-1])[1]))
    return levels


def _numbered(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows, and for each row which of them it is."""
    distinct, index = torch.unique(rows, dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    return distinct, index


def _backwards(
    levels: list[_Level], reference: Tensor, advantages: Tensor, weights: Tensor, beta: float, estimator: str
) -> Tensor:
    """Return log π, ``[B, K]``, solved from the last token to the first with the advantages given."""
    shape, reference = weights.shape, reference.flatten(0, 1)
    weights, advantages = weights.flatten(), advantages.flatten()
    tail = torch.zeros_like(weights)  # log π of what comes after token t
    for t, level in reversed(list(enumerate(levels))):
        rows, child, count = level.rows, level.child, len(level.state_of_child)
        share = tail[rows].exp() * weights[rows]
        w = share.new_zeros(count).index_add(0, child, share)
        q = share.new_zeros(count).index_add(0, child, share * advantages[rows])
        log_reference = share.new_zeros(count).index_copy(0, child, reference[rows, t])
        logps = _share_out(level.state_of_child, log_reference, q, beta * w, estimator)
        tail[rows] += logps[child]
    return tail.view(shape)


def _share_out(state: Tensor, log_reference: Tensor, q: Tensor, scale: Tensor, estimator: str) -> Tensor:
    """Return log π(a|s) of each (state, token), by bisection for λ_s; `scale` is β w."""

    def limit(logps: Tensor) -> Tensor:
        """The λ at which a token has this probability: it falls as the probability grows."""
        log_ratio = logps - log_reference
        return q - scale * (log_ratio if estimator == "k2" else -(-log_ratio).expm1())

    def share(at: Tensor) -> Tensor:
        if estimator == "k2":
            return log_reference + (q - at) / scale
        return log_reference + scale.log() - (scale + at - q).log()

    choices = torch.bincount(state).to(q.dtype)
    nowhere = torch.full_like(choices, float("-inf"))
    # One token's probability must not exceed 1, and one at least reaches the mean.
    low = nowhere.scatter_reduce(0, state, limit(torch.zeros_like(q)), "amax")
    high = nowhere.scatter_reduce(0, state, limit(-choices.log()[state]), "amax")
    for _ in range(100):
        middle = (low + high) / 2
        too_much = torch.zeros_like(choices).index_add(0, state, share(middle[state]).exp()) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    logps = share(high[state])
    return logps - torch.zeros_like(choices).index_add(0, state, logps.exp()).log()[state]


def group_standardised(rewards: Tensor, probabilities: Tensor, k: int, epsilon: float) -> Tensor:
    """Return E[(r(y) − mean) / (std + ε) | y is in the group], ``[B, K]``, for groups of k responses.

    The other k − 1 are drawn from ``probabilities [B, K]``; `std` is the unbiased one. For k = 2 this is
    [P(r' < r) − P(r' > r)] / √2: of the rewards only their order counts. As k grows it nears (r − E[r]) / σ.
    """
    sobol = torch.quasirandom.SobolEngine(k - 1, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    uniform = sobol.draw(GROUPS, dtype=torch.float64)
    rows = []
    for r, p in zip(rewards - (probabilities * rewards).sum(-1, keepdim=True), probabilities, strict=True):
        order = r.argsort()
        drawn = torch.searchsorted(p[order].cumsum(0), uniform).clamp(max=len(r) - 1)
        others, own = r[order][drawn], r.unsqueeze(-1)
        mean = (others.sum(-1) + own) / k
        variance = ((others**2).sum(-1) + own**2 - k * mean**2).clamp(min=0) / (k - 1)
        rows.append(((own - mean) / (variance.sqrt() + epsilon)).mean(-1))
    return torch.stack(rows)
