"""How much memory sampling takes: a pass over prompts, and one more token behind the longest of responses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from preflab.model.roles import Roles
from preflab.planning.weightless import LiveBytes
from preflab.sampling.decoding import Feed, FusedFeed, RoomyLayer, draw


@torch.no_grad()
def decoding(roles: Roles, prompts: int, size: int, prompt: int, response: int) -> tuple[int, int]:
    """Return the most bytes that `decode` holds over the prompts, and over the last token, on a model without weights.

    Args:
        roles: as `preflab.planning.weightless` makes them; their model's first role is read.
        prompts: that are drawn for together.
        size: responses to each.
        prompt: tokens of each.
        response: tokens of each response, at the limit.
    """
    shape = (prompts, prompt)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool)
    rows = prompts * size
    noise = torch.zeros(rows, dtype=torch.float64)
    with LiveBytes() as live, roles.merged("policy"):
        feed: Feed = _feed(roles.model)
        logits, layers = feed.prompts(ids, mask)
        first, live.peak = live.peak, live.now
        cache = Cache(layers=[RoomyLayer(layers.pop(0), size, response - 1) for _ in range(len(layers))])
        logits = logits.repeat_interleave(size, 0)
        _fill(cache, response - 2)
        seen = torch.ones(rows, prompt + response - 1, dtype=torch.bool)
        tokens: Tensor = torch.zeros(rows, dtype=torch.long)
        positions = torch.full((rows,), prompt + response - 2)
        logits = feed.tokens(tokens, seen, positions, cache)
        draw(logits, noise, 1.0)
    return first, live.peak


def _feed(model: Any) -> Feed:
    try:
        return FusedFeed(model)
    except NotImplementedError:
        return Feed(model)


def _fill(cache: Cache, tokens: int) -> None:
    """Let a cache take its rooms for full but for one token."""
    for layer in cache.layers:
        assert isinstance(layer, RoomyLayer)
        layer._show(layer.keys.shape[2] + max(0, tokens))
