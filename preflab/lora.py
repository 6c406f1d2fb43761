"""A faster LoRA layer: y = x Wᵀ + s (x Aᵀ) Bᵀ as one operation, with W frozen (Hu et al. 2021, equation 3).

PEFT's own layer adds and scales in operations of their own, each of which reads and writes an activation. Here the
products add to what is there, forwards and backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class LowRank(torch.autograd.Function):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ, and gradients of x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Return ``[..., out]`` of `x` ``[..., in]``, in the type of `x`."""
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        inner = rows @ a.to(x.dtype).t()
        found = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        torch.addmm(found, inner, b.to(x.dtype).t(), alpha=scale, out=found)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.scale, ctx.shape = scale, x.shape
        return found.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x`, `a` and `b`; the base learns nothing."""
        rows, weight, a, b, inner = ctx.saved_tensors
        grad = grads[0].reshape(len(rows), len(weight))
        through = (grad @ b.to(grad.dtype)).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x = torch.addmm(of_x, through, a.to(grad.dtype), out=of_x).view(ctx.shape)
        of_a = (through.t() @ rows).to(a.dtype) if ctx.needs_input_grad[3] else None
        of_b = (grad.t() @ inner).mul_(ctx.scale).to(b.dtype) if ctx.needs_input_grad[4] else None
        return of_x, None, None, of_a, of_b, None


class FastLinear(Linear):
    """PEFT's LoRA layer, with `LowRank` wherever one adapter is read and nothing is merged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``[..., out]`` of `x` ``[..., in]``."""
        names, base = self.active_adapters, self.base_layer
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or base.weight.requires_grad:
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        name = names[0]
        if name not in self.lora_A:
            plain: Tensor = base(x)
            return plain
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        weight, bias = base.weight.to(x.dtype), None if base.bias is None else base.bias.to(x.dtype)
        with torch.autocast(kind, enabled=False):
            return LowRank.apply(
                x, weight, bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
            )  # type: ignore[no-any-return, no-untyped-call]


def hasten(layers: Iterable[nn.Module]) -> None:
    """Make plain LoRA layers over plain linear ones fast; others (quantised, convolutions, embeddings) stay."""
    for layer in layers:
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant:
            layer.__class__ = FastLinear
