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
        wanted: ``[B·K, W]`` places of the tokens whose states are asked for.
        wanted_real: ``[B·K, W]`` which of them are real.
        wanted_sees: ``[B·K or 1, W]`` the last token of its response that each of them sees; -1: only the prompt.
    """

    ids: Tensor
    positions: Tensor
    prompts: Tensor
    prompts_real: Tensor
    responses: Tensor
    responses_real: Tensor
    wanted: Tensor
    wanted_real: Tensor
    wanted_sees: Tensor

    @classmethod
    def of(cls, batch: Batch, *, end: bool) -> Packing:
        """Pack a batch; but for the `end`, no response's last token: no log-probability needs the state after it."""
        lengths, said = batch.prompt_mask.sum(1), batch.response_mask.sum(2).flatten()
        fed = said if end else (said - 1).clamp(min=0)
        # One column of padding stays where no response has a token, so that shapes hold.
        steps = torch.arange(max(1, int(fed.max())), device=lengths.device)
        prompt_steps = torch.arange(batch.prompt_ids.shape[1], device=lengths.device)
        prompts_real, responses_real = prompt_steps < lengths[:, None], steps < fed[:, None]
        prompts = ((lengths.cumsum(0) - lengths)[:, None] + prompt_steps).masked_fill(~prompts_real, 0)
        responses = (lengths.sum() + (fed.cumsum(0) - fed)[:, None] + steps).masked_fill(~responses_real, 0)
        size = batch.response_ids.shape[1]
        follow = lengths.repeat_interleave(size)[:, None] + steps
        # The token before each token of a response, or the last token of all.
        before = torch.cat([(lengths.cumsum(0) - 1).repeat_interleave(size)[:, None], responses], 1)
        sees = said[:, None] - 1 if end else torch.arange(-1, len(steps), device=lengths.device)[None]
        return cls(
            ids=torch.cat(
                [
                    batch.prompt_ids[batch.prompt_mask],
                    batch.response_ids.flatten(0, 1)[:, : len(steps)][responses_real],
                ]
            ),
            positions=torch.cat([prompt_steps.expand_as(prompts)[prompts_real], follow[responses_real]]),
            prompts=prompts,
            prompts_real=prompts_real,
            responses=responses,
            responses_real=responses_real,
            wanted=before.gather(1, said[:, None]) if end else before,
            wanted_real=torch.ones_like(sees, dtype=torch.bool) if end else sees + 1 < said[:, None],
            wanted_sees=sees,
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

    @cached_property
    def wanted_outputs(self) -> Tensor:
        """Where the tokens whose states are asked for are among their padded rows, ``[B·K·W]``."""
        return self.wanted_real.flatten().nonzero().squeeze(1)

    @cached_property
    def wanted_tokens(self) -> Tensor:
        """Places ``[n]`` of the tokens whose states are asked for."""
        return self.wanted[self.wanted_real]

    def prompt_mask(self, window: int | None) -> Tensor | None:
        """Return which prompt tokens see which, ``[P, P]``; None where each sees itself and all before it.

        Padding stands on the right, where no real token sees it.
        """
        width = self.prompts.shape[1]
        if window is None or window >= width:
            return None
        return self.prompts_real.new_ones(width, width).tril().triu(1 - window)

    def response_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return 0 at keys that response tokens see, else −inf, ``[B·K, 1, T, P + T]``; made once for all layers."""
        steps = torch.arange(self.responses.shape[1], device=self.ids.device)
        return self._mask("responses", steps[None], window, dtype)

    def wanted_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return 0 at keys that tokens whose states are asked for see, else −inf, ``[B·K, 1, W, P + T]``."""
        return self._mask("wanted", self.wanted_sees, window, dtype)

    @cached_property
    def _masks(self) -> dict[Any, Tensor]:
        return {}

    def _mask(self, name: str, sees: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        if (name, window, dtype) not in self._masks:
            seen = self._seen(sees, window)
            self._masks[name, window, dtype] = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
                ~seen, -torch.inf
            )
        return self._masks[name, window, dtype]

    def _seen(self, sees: Tensor, window: int | None) -> Tensor:
        """Return which keys are seen by tokens that see their response up to ``[B·K or 1, Q]``."""
        real, steps = self.prompts_real.repeat_interleave(self.size, 0), torch.arange(self.responses.shape[1])
        steps, sees = steps.to(real.device), sees.expand(len(real), -1)
        own = steps <= sees[..., None]
        seen = torch.cat([real[:, None].expand(-1, sees.shape[1], -1), own], 2)
        if window is not None:
            lengths = real.sum(1, keepdim=True)
            at = torch.cat([torch.arange(real.shape[1], device=real.device).expand_as(real), lengths + steps], 1)
            seen &= (lengths + sees)[..., None] - at[:, None] < window
        return seen[:, None]


def prompt_once_states(backbone: nn.Module, batch: Batch, *, end: bool = False) -> Tensor:
    """Run each prompt once and its responses on top of it.

    Args:
        backbone: decoder without its head; from now on its attention is the one called `NAME`.
        batch: left-padded prompts, right-padded responses.
        end: whether the states *after* the responses are wanted, which reward models read.

    Returns:
        ``[n, H]``: the state in which each real response token is chosen, in the order of the mask; or, at the
        `end`, ``[B, K, H]``.

    Raises:
        NotImplementedError: if the model's attention cannot be replaced, or asks for more than ours does.
    """
    _adopt(backbone)
    packing = Packing.of(batch, end=end)
    output = backbone(
        input_ids=packing.ids[None],
        position_ids=packing.positions[None],
        # A mask of four dimensions reaches attention as it is; none is made of the N tokens' square.
        attention_mask=batch.prompt_mask.new_zeros(1, 1, 1, 1),
        use_cache=False,
        packing=packing,
    )
    states: Tensor = output.last_hidden_state[0][packing.wanted_tokens]
    return states.view(*batch.response_ids.shape[:2], -1) if end else states


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
    mask = packing.response_mask(sliding_window, query.dtype)
    responses = attend(packing.responses, packing.keys, mask)
    return torch.cat([prompts, responses])[packing.outputs][None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
