"""Prompt-once states: all real tokens of a batch in one row, x once, {y1 … yk} behind it, one pass through the base.

Every layer but attention treats tokens alone, and wants them in one piece without padding. Attention must know who
sees whom: it is handed the `Packing`, unpacks queries, keys and values into prompts ``[B, P]`` and responses
``[B·K, T]`` that see their prompt's keys and their own, and packs what comes out. It costs a copy of the prompts' keys
for each response, and saves the k-fold prompt, a cache, a second pass and all padding elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preflab.interface import Batch

NAME = "preflab"
"""The attention that understands packed batches, and is ``sdpa`` for all others."""

MEANINGLESS = frozenset({"is_causal", "use_cache", "position_ids"})
"""What models tell an attention that packing settles already."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where a batch's N real tokens lie in one row: prompts in order, then responses in order.

    Attributes:
        ids: ``[N]`` tokens.
        positions: ``[N]`` where each stands in its text.
        prompts: ``[B, P]`` places of the prompts' tokens, right-padded.
        prompts_real: ``[B, P]`` which of them are real.
        responses: ``[B·K, T]`` places of the responses' tokens, right-padded.
        responses_real: ``[B·K, T]`` which of them are real.
    """

    ids: Tensor
    positions: Tensor
    prompts: Tensor
    prompts_real: Tensor
    responses: Tensor
    responses_real: Tensor

    @classmethod
    def of(cls, batch: Batch, *, last: bool) -> Packing:
        """Pack a batch; without `last`, no response's last token: no log-probability needs the state after it."""
        lengths = batch.prompt_mask.sum(1)
        fed = (batch.response_mask.sum(2) - int(not last)).clamp(min=0).flatten()
        # One column of padding stays where no response has a token, so that shapes hold.
        steps = torch.arange(max(1, int(fed.max())), device=lengths.device)
        prompt_steps = torch.arange(batch.prompt_ids.shape[1], device=lengths.device)
        prompts_real, responses_real = prompt_steps < lengths[:, None], steps < fed[:, None]
        prompts = (lengths.cumsum(0) - lengths)[:, None] + prompt_steps
        responses = lengths.sum() + (fed.cumsum(0) - fed)[:, None] + steps
        follow = lengths.repeat_interleave(batch.response_ids.shape[1])[:, None] + steps
        said = batch.response_ids.flatten(0, 1)[:, : len(steps)]
        return cls(
            ids=torch.cat([batch.prompt_ids[batch.prompt_mask], said[responses_real]]),
            positions=torch.cat([prompt_steps.expand_as(prompts)[prompts_real], follow[responses_real]]),
            prompts=prompts.masked_fill(~prompts_real, 0),
            prompts_real=prompts_real,
            responses=responses.masked_fill(~responses_real, 0),
            responses_real=responses_real,
        )

    @property
    def size(self) -> int:
        """Responses to a prompt, K."""
        return len(self.responses) // len(self.prompts)

    @cached_property
    def keys(self) -> Tensor:
        """Places ``[B·K, P + T]`` of what a response's tokens may see."""
        return torch.cat([self.prompts.repeat_interleave(self.size, 0), self.responses], 1)

    @cached_property
    def outputs(self) -> Tensor:
        """Where the N tokens are among the rows of unpacked prompts and responses, ``[B·P + B·K·T]``."""
        return torch.cat([self.prompts_real.flatten(), self.responses_real.flatten()]).nonzero().squeeze(1)

    def prompt_mask(self, window: int | None) -> Tensor | None:
        """Return which prompt tokens see which, ``[P, P]``; None where each sees itself and all before it.

        Padding stands on the right, where no real token sees it.
        """
        width = self.prompts.shape[1]
        if window is None or window >= width:
            return None
        return self.prompts_real.new_ones(width, width).tril().triu(1 - window)

    def response_mask(self, window: int | None) -> Tensor:
        """Return which keys response tokens see, ``[B·K, 1, T, P + T]``; made once for all layers."""
        if window not in self._masks:
            self._masks[window] = self._response_mask(window)
        return self._masks[window]

    @cached_property
    def _masks(self) -> dict[int | None, Tensor]:
        return {}

    def _response_mask(self, window: int | None) -> Tensor:
        width = self.responses.shape[1]
        real = self.prompts_real.repeat_interleave(self.size, 0)
        own = real.new_ones(width, width).tril()
        mask = torch.cat([real[:, None].expand(-1, width, -1), own.expand(len(real), -1, -1)], 2)
        if window is not None:
            before = torch.arange(real.shape[1], device=real.device).expand_as(real)
            after = real.sum(1, keepdim=True) + torch.arange(width, device=real.device)
            mask &= after[:, :, None] - torch.cat([before, after], 1)[:, None] < window
        return mask[:, None]


def prompt_once_states(backbone: nn.Module, batch: Batch, *, last: bool) -> Tensor:
    """Run each prompt once and its responses on top of it.

    Args:
        backbone: decoder without its head; from now on its attention is the one called `NAME`.
        batch: left-padded prompts, right-padded responses.
        last: whether the state *after* the last token is wanted too (reward models read it).

    Returns:
        ``[B, K, T + last, H]``: index t is the state in which token t is chosen; entries past a
        response's own length are undefined.

    Raises:
        NotImplementedError: if the model's attention cannot be replaced, or asks for more than ours does.
    """
    _adopt(backbone)
    packing = Packing.of(batch, last=last)
    output = backbone(
        input_ids=packing.ids[None],
        position_ids=packing.positions[None],
        # A mask of four dimensions reaches attention as it is; none is made of the N tokens' square.
        attention_mask=batch.prompt_mask.new_zeros(1, 1, 1, 1),
        use_cache=False,
        packing=packing,
    )
    size, width = batch.response_ids.shape[1:]
    ends = (batch.prompt_mask.sum(1).cumsum(0) - 1).repeat_interleave(size)
    places = torch.cat([ends[:, None], packing.responses], 1)[:, : width + int(last)]
    states = output.last_hidden_state[0][functional.pad(places, (0, width + int(last) - places.shape[1]))]
    return states.reshape(-1, size, *states.shape[1:])


def _adopt(backbone: nn.Module) -> None:
    """Give a model that attends by ``sdpa`` the attention that also understands packed batches."""
    config: Any = backbone.config
    if config._attn_implementation == "sdpa":
        backbone.set_attn_implementation(NAME)  # type: ignore[operator]
    if config._attn_implementation != NAME:
        raise NotImplementedError(f"attention {config._attn_implementation!r} cannot be replaced")


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within packed texts.

    Args:
        module: the layer that asks.
        query: ``[1, heads, N, D]``.
        key: ``[1, key heads, N, D]``, as `value`.
        value: what is read.
        attention_mask: not read where there is a packing.
        packing: where the texts are; without it, this is ``sdpa``.
        scaling: of the products; by default 1/√D.
        sliding_window: how many tokens one sees, itself included.
        dropout: of the weights; must be 0.
        options: what else a model asks for.

    Returns:
        ``[1, N, heads, D]``, and no weights.

    Raises:
        NotImplementedError: if a model asks for something else, such as a cap on its logits.
    """
    if packing is None:
        options |= {"scaling": scaling, "sliding_window": sliding_window, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options["dropout"] = dropout or None
    asked = [name for name, value in options.items() if name not in MEANINGLESS and value is not None]
    if asked:
        raise NotImplementedError(f"attention with {', '.join(asked)}")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    shared = query.shape[1] // key.shape[1]  # heads to a key head

    def attend(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x[places].transpose(1, 2) for x, places in ((query, queries), (key, keys), (value, keys)))
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        found = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling)
        return found.transpose(1, 2).flatten(0, 1)

    prompts = attend(packing.prompts, packing.prompts, packing.prompt_mask(sliding_window))
    responses = attend(packing.responses, packing.keys, packing.response_mask(sliding_window))
    return torch.cat([prompts, responses])[packing.outputs][None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
