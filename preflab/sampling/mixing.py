"""A policy on its way between two others, at decoding: each next token's log-probabilities mixed (arXiv 2402.02992).

    log π_λ(y_t | x, y_<t) = (1 − λ) log π_0(y_t|·) + λ log π_1(y_t|·) − log Z_λ(x, y_<t)

Both are roles of one base, whatever their adapters are, and take turns at every token: twice the work of sampling
one. `preflab.model.interpolation` takes adapters that are products of matrices the same way in weight space.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from preflab.errors import UserError
from preflab.method.contract import Role
from preflab.model.roles import Roles
from preflab.model.work import sampled
from preflab.sampling.decoding import EndIds, Feeder
from preflab.sampling.sampler import Samples, TransformersSampler


def mixed_logps(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return log π_λ over the last dimension, ``[..., V]``, float32 or better.

    Args:
        start: logits or log-probabilities ``[..., V]`` of π_0.
        end: those of π_1.
        share: λ, 0 the start and 1 the end. What one with a weight never gives, −inf, no mixture gives.
    """
    weighted = [(weight, x) for weight, x in ((1.0 - share, start), (share, end)) if weight]
    ends = [x if x.dtype == torch.float64 else x.float() for _, x in weighted]
    mixed = torch.stack([weight * x for (weight, _), x in zip(weighted, ends, strict=True)]).sum(0)
    return mixed.masked_fill((torch.stack(ends) == float("-inf")).any(0), float("-inf")).log_softmax(-1)


class MixedFeed:
    """Feeds two roles of one base the same tokens, and gives the logits of their mixture.

    Args:
        model: the causal language model inside the roles.
        roles: hold the adapters.
        ends: the roles that share 0 and share 1 are.
        share: λ.
        feeder: how the model is fed with either.
    """

    def __init__(self, model: Any, *, roles: Roles, ends: tuple[Role, Role], share: float, feeder: Feeder) -> None:
        self.roles, self.ends, self.share = roles, ends, share
        self.feeds = []
        for role in ends:
            with roles.active(role):  # a feeder reads the adapter once
                self.feeds.append(feeder(model))

    def prompts(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits ``[B, V]`` behind left-padded prompts, and the layers of both roles' caches, in turn."""
        logits, layers = [], []
        for role, feed in zip(self.ends, self.feeds, strict=True):
            with self.roles.active(role):
                found, own = feed.prompts(ids, mask)
            logits.append(found)
            layers += own
        return mixed_logps(logits[0], logits[1], self.share), layers

    def tokens(self, ids: Tensor, seen: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the logits ``[N, V]`` behind one more token in each row."""
        logits, half = [], len(cache.layers) // 2
        for role, feed, layers in zip(self.ends, self.feeds, (cache.layers[:half], cache.layers[half:]), strict=True):
            with self.roles.active(role):
                logits.append(feed.tokens(ids, seen, positions, Cache(layers=layers)))
        return mixed_logps(logits[0], logits[1], self.share)


class MixedSampler(TransformersSampler):
    """Samples a role at a share of the way from the reference to it, log-probabilities mixed at every token.

    At a temperature, the roles' own distributions at that temperature are mixed. It needs the decode loop
    (`preflab.sampling.decoding`), and never folds an adapter in.

    Args:
        share: λ, 0 the reference and 1 the role.
        end_ids: as of `TransformersSampler`.
        pad_id: the same.
        max_response_tokens: the same.
        batch_size: the same.
    """

    def __init__(
        self, share: float, end_ids: EndIds, pad_id: int, max_response_tokens: int, *, batch_size: int | None = None
    ) -> None:
        super().__init__(end_ids, pad_id, max_response_tokens, batch_size=batch_size)
        self.share = share

    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return `k` samples for each prompt; ``logps`` are those of the mixture.

        Raises:
            UserError: if the decode loop is not exact on the model, or probabilities are not finite.
        """
        samples = super().__call__(roles, role, prompts, k=k, temperature=temperature, seed=seed)
        roles.work.add(sampled(samples.batch))  # that of the other role
        return samples

    def _reading(self, roles: Roles, role: Role) -> AbstractContextManager[None]:
        return roles.active(role)  # what is folded into the base would be in the reference too

    def _feeder(self, roles: Roles, role: Role, ids: Tensor, mask: Tensor) -> Feeder:
        feeder = super()._feeder(roles, role, ids, mask)
        if feeder is None:
            raise UserError(
                f"log-probabilities cannot be mixed on {type(roles.model).__name__}, which our decode loop does not "
                "run exactly; interpolate by weights"
            )
        return functools.partial(MixedFeed, roles=roles, ends=("reference", role), share=self.share, feeder=feeder)
