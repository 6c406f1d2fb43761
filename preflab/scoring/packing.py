"""Prompt-once states: all real tokens of a batch in one row, x once, {y1 … yk} behind it, one pass through the base.

Every layer but attention treats tokens alone, and wants them in one piece without padding. Attention must know who
sees whom: it is handed the `Packing`, lays queries, keys and values out as prompts ``[B, P]`` and responses
``[B·K, T]`` that see their prompt's keys and their own, and packs what comes out. It costs a copy of the prompts' keys
for each response, and saves the k-fold prompt, a cache, a second pass and all padding elsewhere. Where each prompt has
one response there is nothing to share, and texts are laid out whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preflab.method.contract import Batch

NAME = "preflab"
"""The attention that understands packed batches, and is ``sdpa`` for all others."""

MEANINGLESS = frozenset({"is_causal", "use_cache", "position_ids"})
"""What models tell an attention that packing settles already."""

LITTLE_PADDING = 0.05
"""Share of padding in whole texts that is cheaper to run than to skip: then nothing need be copied anywhere."""

NEVER = 2**30
"""Where padding stands among keys: behind everything that looks."""


# ---- where tokens are --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grid:
    """Packed tokens laid out in rows of one length, right-padded.

    Attributes:
        real: bool ``[R, C]``, where tokens are, in the order in which they are packed.
        count: how many there are.
    """

    real: Tensor
    count: int

    @classmethod
    def of(cls, real: Tensor) -> Grid:
        """Lay tokens out where `real` is true."""
        return cls(real, int(real.sum()))

    @property
    def whole(self) -> bool:
        """Whether there is no padding: packed and laid out are then the same."""
        return self.count == self.real.numel()

    @cached_property
    def places(self) -> Tensor:
        """Which packed token stands where, ``[R, C]``; 0 on padding."""
        return (self.real.flatten().cumsum(0) - 1).view(self.real.shape).masked_fill(~self.real, 0)

    @cached_property
    def cells(self) -> Tensor:
        """Which of the R·C are tokens, ``[count]``."""
        return self.real.flatten().nonzero().squeeze(1)

    def lay(self, rows: Tensor, padding: float | None = None) -> Tensor:
        """Return ``[R, C, ...]`` of ``[count, ...]``; on padding stands what is given, else anything."""
        shape = (*self.real.shape, *rows.shape[1:])
        if self.whole:
            return rows.view(shape)
        if padding is None and self.count:
            return rows.index_select(0, self.places.flatten()).view(shape)
        empty = rows.new_full((self.real.numel(), *rows.shape[1:]), padding or 0)
        return empty.index_copy_(0, self.cells, rows).view(shape)


def packed(parts: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
    """Return the tokens ``[Σ count, ...]`` of parts that are laid out ``[R, C, ...]``, grid after grid."""
    if len(grids) == 1 and grids[0].whole:
        return parts[0].flatten(0, 1)
    counts = [grid.count for grid in grids]
    rows = parts[0].new_empty(sum(counts), *parts[0].shape[2:])
    for part, grid, out in zip(parts, grids, torch.split(rows, counts), strict=True):
        torch.index_select(part.flatten(0, 1), 0, grid.cells, out=out)
    return rows


class _Texts(NamedTuple):
    """Tokens of a batch as they are packed; see `Packing`.

    Attributes:
        ids: ``[N]``.
        positions: ``[N]``.
        trunks: of prompts or whole texts.
        branches: of responses.
        before: places ``[B·K, 1]`` of the prompts' last tokens.
        first: places ``[B·K, 1]`` of the responses' first tokens.
    """

    ids: Tensor
    positions: Tensor
    trunks: Grid
    branches: Grid | None
    before: Tensor
    first: Tensor


def _whole(batch: Batch, fed: Tensor) -> _Texts:
    """Lay prompts and the `fed` tokens ``[B]`` of their only responses out as texts."""
    source, start = torch.cat([batch.prompt_ids, batch.response_ids[:, 0]], 1), batch.prompt_ids.shape[1]
    prompts = batch.prompt_mask.sum(1)
    lengths = prompts + fed
    steps = torch.arange(int(lengths.max()), device=fed.device).expand(len(fed), -1)
    real = run = steps < lengths[:, None]
    if real.sum() >= (1 - LITTLE_PADDING) * real.numel():
        run = torch.ones_like(real)
    # Padding is on the left of prompts: they end where responses begin.
    at = (steps + start - prompts[:, None]).masked_fill(~real, 0)
    ids = source.gather(1, at).masked_fill(~real, 0)
    begin = run.sum(1).cumsum(0) - run.sum(1)
    first = (begin + prompts)[:, None]
    return _Texts(ids[run], steps[run], Grid.of(run), None, first - 1, first)


def _branching(batch: Batch, fed: Tensor) -> _Texts:
    """Lay out prompts, and the `fed` tokens ``[B·K]`` of their responses."""
    prompts, size = batch.prompt_mask.sum(1), batch.response_ids.shape[1]
    steps = torch.arange(batch.prompt_ids.shape[1], device=fed.device)
    trunks = Grid.of(steps < prompts[:, None])
    # One column of padding stays where no response has a token, so that shapes hold.
    after = torch.arange(max(1, int(fed.max())), device=fed.device)
    branches = Grid.of(after < fed[:, None])
    said = batch.response_ids.flatten(0, 1)[:, : len(after)][branches.real]
    follow = (prompts.repeat_interleave(size)[:, None] + after)[branches.real]
    return _Texts(
        ids=torch.cat([batch.prompt_ids[batch.prompt_mask], said]),
        positions=torch.cat([steps.expand_as(trunks.real)[trunks.real], follow]),
        trunks=trunks,
        branches=branches,
        before=(prompts.cumsum(0) - 1).repeat_interleave(size)[:, None],
        first=(trunks.count + fed.cumsum(0) - fed)[:, None],
    )


@dataclass(frozen=True, eq=False)
class Packing:
    """Where a batch's N tokens lie in one row: trunks in order, then branches in order.

    Trunks are prompts, and branches the responses on top of them; where each prompt has one response, trunks are whole
    texts and nothing branches off.

    Attributes:
        ids: ``[N]`` tokens.
        positions: ``[N]`` where each stands in its text.
        trunks: ``[B, P]``, or ``[B, P + T]`` as whole texts.
        branches: ``[B·K, T]``; None where trunks are whole texts.
        wanted: places ``[n]`` of the tokens whose states are asked for.
        asked: those n, ``[B·K, W]``.
    """

    ids: Tensor
    positions: Tensor
    trunks: Grid
    branches: Grid | None
    wanted: Tensor
    asked: Grid

    @classmethod
    def of(cls, batch: Batch, *, end: bool) -> Packing:
        """Pack a batch; but for the `end`, no response's last token: no log-probability needs the state after it."""
        said = batch.response_mask.sum(2).flatten()
        fed = said if end else (said - 1).clamp(min=0)
        texts = _whole(batch, fed) if batch.response_ids.shape[1] == 1 else _branching(batch, fed)
        # A response's token t is chosen in the state after token t − 1, the first one in that after the prompt.
        steps = torch.arange(max(1, int(said.max())), device=said.device).expand(len(said), -1)
        token = said[:, None] if end else steps
        asked = Grid.of(torch.ones_like(token, dtype=torch.bool) if end else token < said[:, None])
        wanted = torch.where(token > 0, texts.first + token - 1, texts.before)[asked.real]
        return cls(texts.ids, texts.positions, texts.trunks, texts.branches, wanted, asked)

    @property
    def size(self) -> int:
        """Responses to a prompt, K."""
        return len(self.asked.real) // len(self.trunks.real)

    @cached_property
    def keys(self) -> Tensor:
        """Places of what a response's tokens may see, ``[B·K, P + T]``; 0 on padding."""
        if self.branches is None:
            return self.trunks.places
        return torch.cat([self.trunks.places.repeat_interleave(self.size, 0), self.branch_places], 1)

    @cached_property
    def branch_places(self) -> Tensor:
        """Places of the branches' tokens, ``[B·K, T]``; 0 on padding."""
        assert self.branches is not None
        return (self.branches.places + self.trunks.count).masked_fill(~self.branches.real, 0)

    @cached_property
    def own(self) -> Tensor:
        """Which of the B·K·(P + T) keys are the branches' own, in the order of their tokens."""
        assert self.branches is not None
        shared = self.trunks.real.new_zeros(1, 1).expand(len(self.branches.real), self.trunks.real.shape[1])
        return torch.cat([shared, self.branches.real], 1).flatten().nonzero().squeeze(1)

    # ---- who sees whom ---------------------------------------------------------------------------

    def trunk_mask(self, window: int | None) -> Tensor | None:
        """Return which trunk tokens see which, ``[P, P]``; None where each sees itself and all before it.

        Padding stands on the right, where no real token sees it.
        """
        width = self.trunks.real.shape[1]
        if window is None or window >= width:
            return None
        return self.trunks.real.new_ones(width, width).tril().triu(1 - window)

    def branch_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return 0 at keys that branches' tokens see, else −inf, ``[B·K, 1, T, P + T]``; made once for all layers."""
        assert self.branches is not None
        return self._mask("branches", self.branches, self.positions[self.trunks.count :], window, dtype)

    def asked_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return 0 at keys that tokens whose states are asked for see, else −inf, ``[B·K, 1, W, P + T]``."""
        return self._mask("asked", self.asked, self.positions[self.wanted], window, dtype)

    @cached_property
    def _keys_at(self) -> Tensor:
        """Positions of keys, ``[B·K, P + T]``."""
        if self.branches is None:
            return self.trunks.lay(self.positions, NEVER)
        trunks, branches = torch.split(self.positions, [self.trunks.count, self.branches.count])
        shared = self.trunks.lay(trunks, NEVER).repeat_interleave(self.size, 0)
        return torch.cat([shared, self.branches.lay(branches, NEVER)], 1)

    @cached_property
    def _masks(self) -> dict[Any, Tensor]:
        return {}

    def _mask(self, name: str, grid: Grid, at: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the mask of queries in a grid that stand at positions ``[count]``."""
        if (name, window, dtype) not in self._masks:
            at = grid.lay(at, 0)[..., None]  # padding sees a text's first token, so that no row is without any
            keys = self._keys_at[:, None]
            hidden = keys > at if window is None else (keys > at) | (at - keys >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=at.device).masked_fill_(hidden, -torch.inf)
            self._masks[name, window, dtype] = mask[:, None]
        return self._masks[name, window, dtype]


# ---- the pass ----------------------------------------------------------------------------------------


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
    states: Tensor = output.last_hidden_state[0][packing.wanted]
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

    trunks, branches = packing.trunks, packing.branches
    found = [attend(trunks.places, trunks.places, packing.trunk_mask(sliding_window))[trunks.cells]]
    if branches is not None:
        mask = packing.branch_mask(sliding_window, query.dtype)
        found.append(attend(packing.branch_places, packing.keys, mask)[branches.cells])
    return torch.cat(found)[None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
