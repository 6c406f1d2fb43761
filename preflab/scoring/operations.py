"""The operations of a decoder of Llama's form, with ways back of their own (see `preflab.scoring.fused`).

They keep the least that the gradient can be computed from: what is normalised or gated is computed again. Activations
are read fewer times, and no gradient of the frozen base's weights is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from preflab.scoring.lora import Adapted, of_adapters, of_rows, products, through
from preflab.scoring.packing import Grid, Packing, packed


class Rotated(torch.autograd.Function):
    """Rotary embedding (Su et al. 2021, equation 34) of ``[N, heads, D]`` by angles ``[N, D]``, halves as pairs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return ``[N, heads, D]``."""
        ctx.save_for_backward(cos, sin)
        return turned(x, cos[:, None], sin[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Turn the gradient back."""
        cos, sin = ctx.saved_tensors
        return turned(grads[0], cos[:, None], -sin[:, None]), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``[N, heads, D]`` turned by angles ``[N, 1, D]``, halves as pairs."""
    found, middle = x * cos, x.shape[-1] // 2
    found[..., :middle].addcmul_(x[..., middle:], sin[..., :middle], value=-1)
    found[..., middle:].addcmul_(x[..., :middle], sin[..., middle:])
    return found


class Laid(torch.autograd.Function):
    """Packed tokens, grid after grid, laid out; the gradient of padding is dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *grids: Grid) -> tuple[Tensor, ...]:
        """Return ``[R, C, ...]`` of each grid, of `x` ``[Σ count, ...]``."""
        ctx.grids = grids
        parts = torch.split(x, [grid.count for grid in grids])
        return tuple(grid.lay(part) for grid, part in zip(grids, parts, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pack the gradient."""
        return packed(grads, ctx.grids), *(None for _ in grads)


class Packed(torch.autograd.Function):
    """What is laid out, packed; the gradient of padding is 0."""

    @staticmethod
    def forward(ctx: Any, grids: Sequence[Grid], *parts: Tensor) -> Tensor:
        """Return ``[Σ count, ...]`` of ``[R, C, ...]`` of each grid."""
        ctx.grids = grids
        return packed(parts, grids)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Lay the gradient out."""
        rows = torch.split(grads[0], [grid.count for grid in ctx.grids])
        return None, *(grid.lay(part, 0) for grid, part in zip(ctx.grids, rows, strict=True))


class Shared(torch.autograd.Function):
    """Keys or values laid out as trunks, if asked for, and as branches, each with its trunk before it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing, trunks: bool) -> tuple[Tensor, ...]:
        """Return ``[B, P, ...]`` and ``[B·K, P + T, ...]`` of ``[N, ...]``."""
        ctx.packing = packing
        whole = x.index_select(0, packing.keys.flatten()).view(*packing.keys.shape, *x.shape[1:])
        return (packing.trunks.lay(x[: packing.trunks.count]), whole) if trunks else (whole,)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the rows, a trunk's added up over all that saw it."""
        packing, whole = ctx.packing, grads[-1]
        width = packing.trunks.real.shape[1]
        shared = whole.view(-1, packing.size, *whole.shape[1:])[:, :, :width].sum(1)
        if len(grads) > 1:
            shared += grads[0]
        trunks = packing.trunks.count
        rows = whole.new_empty(len(packing.ids), *whole.shape[2:])
        torch.index_select(shared.flatten(0, 1), 0, packing.trunks.cells, out=rows[:trunks])
        torch.index_select(whole.flatten(0, 1), 0, packing.own, out=rows[trunks:])
        return rows, None, None


class Projected(torch.autograd.Function):
    """Root-mean-square normalisation (arXiv 1910.07467, equation 4), and linear layers of what comes out.

    Kept are the states as they were and one number for each; what is normalised is computed again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Any, half: torch.dtype, layers: Sequence[Adapted], *learnt: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return ``[N, out]`` of each layer, of `x` ``[N, H]``; `learnt` are the layers' matrices A and B in turn."""
        rows, inverse = normalised(x, norm.weight, norm.variance_epsilon)
        found, inner = products(rows.to(half), layers)
        ctx.save_for_backward(x, inverse, inner)
        ctx.norm, ctx.half, ctx.layers = norm, half, layers
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x` and of `learnt`."""
        (x, inverse, inner), layers, weight = ctx.saved_tensors, ctx.layers, ctx.norm.weight
        back = through(grads, layers)
        learnt: list[Tensor | None] = [None] * (2 * len(layers))
        if back is not None:
            rows = _scaled(x, inverse, weight).to(ctx.half)
            learnt = of_adapters(grads, layers, rows, inner, back)
        of_x = _normalised_back(of_rows(grads, layers, back), x, inverse, weight) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *learnt


class Normalised(torch.autograd.Function):
    """Root-mean-square normalisation alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any) -> Tensor:
        """Return ``[N, H]``."""
        found, inverse = normalised(x, norm.weight, norm.variance_epsilon)
        ctx.save_for_backward(x, inverse)
        ctx.norm = norm
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the states."""
        x, inverse = ctx.saved_tensors
        return _normalised_back(grads[0], x, inverse, ctx.norm.weight), None


def normalised(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return w · x / rms(x) in the type of `x`, and 1 / rms(x), ``[N, 1]``, which is computed in float32."""
    inverse = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return _scaled(x, inverse, weight), inverse


def _scaled(x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    return weight * (x.float() * inverse).to(x.dtype)


def _normalised_back(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of `x`, in its type."""
    wide, weighted = x.float(), grad.float() * weight.float()
    along = (weighted * wide).mean(-1, keepdim=True) * inverse.pow(3)
    return weighted.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype)


class Added(torch.autograd.Function):
    """A linear layer's product, added to states."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, x: Tensor, layer: Adapted, a: Tensor | None, b: Tensor | None) -> Tensor:
        """Return ``[N, H]`` of `states` ``[N, H]`` and `x` ``[N, in]``; `a` and `b` are the layer's."""
        found, inner = added(states, x, layer)
        ctx.save_for_backward(x, inner)
        ctx.layer = layer
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, x, a and b."""
        (x, inner), layers = ctx.saved_tensors, [ctx.layer]
        given = [grads[0].to(x.dtype)]
        back = through(given, layers)
        of_x = of_rows(given, layers, back) if ctx.needs_input_grad[1] else None
        return grads[0], of_x, None, *of_adapters(given, layers, x, inner, back)


class Gated(torch.autograd.Function):
    """SwiGLU (arXiv 2002.05202, equation 6) and the layer behind it, added to states.

    Kept are both its inputs; silu and product are computed again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, gate: Tensor, up: Tensor, layer: Adapted, a: Tensor | None, b: Tensor | None
    ) -> Tensor:
        """Return ``[N, H]`` of `states` ``[N, H]``, `gate` and `up` ``[N, I]``; `a` and `b` are the layer's."""
        found, inner = added(states, functional.silu(gate).mul_(up), layer)
        ctx.save_for_backward(gate, up, inner)
        ctx.layer = layer
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, gate, up, a and b."""
        (gate, up, inner), layers = ctx.saved_tensors, [ctx.layer]
        given = [grads[0].to(gate.dtype)]
        back = through(given, layers)
        of_product, opened = of_rows(given, layers, back), functional.silu(gate)
        of_gate = torch.ops.aten.silu_backward(of_product * up, gate)
        of_up = of_product.mul_(opened)
        return grads[0], of_gate, of_up, None, *of_adapters(given, layers, opened.mul_(up), inner, back)


def added(states: Tensor, x: Tensor, layer: Adapted) -> tuple[Tensor, Tensor | None]:
    """Return `states` ``[N, H]`` with the layer's product of `x` ``[N, in]`` added, and the adapter's inner product."""
    if states.dtype == x.dtype:
        (found,), inner = products(x, [layer], onto=states)
        return found, inner
    (found,), inner = products(x, [layer])
    return states + found, inner
