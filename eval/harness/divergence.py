"""How far a policy is from its reference at every token, over the whole vocabulary.

One sampled response gives two unbiased estimates of KL(π‖π_ref): its log-ratio log π(y|x) − log π_ref(y|x),
and the Rao-Blackwellised sum Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)), in which each term is the mean of the
log-ratio's over the token that was drawn (arXiv 2504.10637). The second has the lower variance, and is
never negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from preflab.method.contract import Batch, Role
from preflab.model.roles import Roles
from preflab.sampling.mixing import mixed_logps
from preflab.scoring.logps import single_logits, token_logits

POSITIONS_AT_ONCE = 256
"""Positions whose vocabularies are held at a time: [positions × vocabulary] is the largest thing there is."""

ENDS: tuple[Role, Role] = ("reference", "policy")
"""Where share 0 and share 1 of a mixture lie."""


class TokenDistributions(NamedTuple):
    """Neighbouring positions of one response.

    Attributes:
        at: which response, (b, k).
        ids: its tokens there, ``[n]``.
        logps: log π(·|x, y_<t), ``[n, V]``; half types come as float32.
    """

    at: tuple[int, int]
    ids: Tensor
    logps: Tensor


class Figures(NamedTuple):
    """What a policy says of responses; every field float64 ``[B, K]``, 0 for empty responses.

    Attributes:
        logp: log π(y|x), nats.
        entropy: mean over the response's positions of the entropy of π(·|x, y_<t), nats per token.
        log_ratio: log π(y|x) − log π_ref(y|x); None without a reference.
        kl: Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)), nats; None without a reference.
    """

    logp: Tensor
    entropy: Tensor
    log_ratio: Tensor | None = None
    kl: Tensor | None = None


@torch.no_grad()
def policy_figures(policy: Roles, reference: Roles | None, batch: Batch, temperature: float = 1.0) -> Figures:
    """Score responses under one's role ``policy`` and, if there is one, the other's role ``reference``.

    Args:
        policy: has the role ``policy``.
        reference: has the role ``reference``, over the same vocabulary; the same object, mostly.
        batch: prompts and responses, on the policies' device.
        temperature: divides the logits of both.
    """
    return figures_of(token_distributions(policy, "policy", batch, temperature), reference, batch, temperature)


@torch.no_grad()
def figures_of(
    own: Iterator[TokenDistributions], reference: Roles | None, batch: Batch, temperature: float = 1.0
) -> Figures:
    """Return what any policy says of responses, by its distributions at their tokens; otherwise as `policy_figures`."""
    totals = torch.zeros(4, *batch.response_mask.shape[:2], dtype=torch.float64, device=batch.response_ids.device)
    others: Iterator[TokenDistributions | None] = repeat(None)
    if reference is not None:
        others = token_distributions(reference, "reference", batch, temperature)
    for (at, ids, logps), other in zip(own, others, strict=False):
        totals[0][at] += _taken(logps, ids)
        totals[1][at] -= _expected(logps, logps)
        if other is not None:
            ratios = logps - other.logps
            totals[2][at] += _taken(ratios, ids)
            totals[3][at] += _expected(logps, ratios)
    logp, entropy, log_ratio, kl = totals
    entropy = entropy / batch.response_mask.sum(-1).clamp(min=1)
    return Figures(logp, entropy) if reference is None else Figures(logp, entropy, log_ratio, kl)


def _taken(values: Tensor, ids: Tensor) -> Tensor:
    """Return the sum of ``[n, V]`` at the tokens ``[n]``."""
    return values.gather(1, ids[:, None]).sum(dtype=torch.float64)


def _expected(logps: Tensor, values: Tensor) -> Tensor:
    """Return Σ_t E_π[values], of ``[n, V]`` each; what has no probability counts nothing (0 · log 0 = 0)."""
    return (logps.exp() * values).masked_fill(logps == float("-inf"), 0.0).sum(dtype=torch.float64)


def token_distributions(roles: Roles, role: Role, batch: Batch, temperature: float) -> Iterator[TokenDistributions]:
    """Yield the distributions at every token, response by response, `POSITIONS_AT_ONCE` at most at a time.

    The role is active only while something is computed, so that two roles of one base may take turns.
    """
    lengths = batch.response_mask.sum(-1)
    with roles.active(role):
        single = roles.scorer.path(batch) == "single"
        states = None if single else iter(torch.split(roles.scorer.states(batch), lengths[lengths > 0].tolist()))
    for b, k in (lengths > 0).nonzero().tolist():
        mask = batch.response_mask[b, k]
        with roles.active(role):
            source = single_logits(roles.model, _response(batch, b, k)) if states is None else next(states)
        ids = batch.response_ids[b, k][mask]
        for start in range(0, len(ids), POSITIONS_AT_ONCE):
            here = slice(start, start + POSITIONS_AT_ONCE)
            with roles.active(role):
                logits = source[here] if states is None else token_logits(roles.model, source[here])
            wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            yield TokenDistributions((b, k), ids[here], (wide / temperature).log_softmax(-1))


def mixed_distributions(roles: Roles, share: float, batch: Batch, temperature: float) -> Iterator[TokenDistributions]:
    """Yield as `token_distributions` does, of the mixture at a share of the way from the reference to the policy."""
    starts, ends = (token_distributions(roles, role, batch, temperature) for role in ENDS)
    for start, end in zip(starts, ends, strict=True):
        yield end._replace(logps=mixed_logps(start.logps, end.logps, share))


def _response(batch: Batch, b: int, k: int) -> Batch:
    rows, responses = slice(b, b + 1), slice(k, k + 1)
    ids, mask = batch.response_ids[rows, responses], batch.response_mask[rows, responses]
    return Batch(batch.prompt_ids[rows], batch.prompt_mask[rows], ids, mask).trimmed()
