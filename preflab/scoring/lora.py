"""A faster LoRA layer: y = x Wᵀ + s (x Aᵀ) Bᵀ as one operation, with W frozen (Hu et al. 2021, equation 3).

PEFT's own layer adds and scales in operations of their own, each of which reads and writes an activation. Here the
products add to what is there, forwards and backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from preflab.scoring.quantised import Packed, QuantisedLinear

FEW_ROWS = 128
"""Up to so many rows W xᵀ is the faster of the two on a CPU, in float32: 3.7 times at 4 rows, 1.3 at 128."""


class Adapted(NamedTuple):
    """A linear layer and the adapter that is read beside it.

    Attributes:
        weight: ``[out, in]``, frozen; `Packed` where it is kept in bits.
        bias: ``[out]``, frozen, or None.
        a: ``[r, in]``, or None where no adapter is read.
        b: ``[out, r]``, or None.
        scale: s.
    """

    weight: Tensor | Packed
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 0.0


def adapted(layer: Any) -> Adapted:
    """Return a linear layer as it is read now.

    Raises:
        NotImplementedError: if several adapters are read at once, or one that is more than A and B.
    """
    base = layer.base_layer if isinstance(layer, Linear) else layer
    weight = base.packed if isinstance(base, QuantisedLinear) else base.weight
    if base is layer:
        return Adapted(weight, base.bias)
    read = [] if layer.disable_adapters or layer.merged else [n for n in layer.active_adapters if n in layer.lora_A]
    if len(read) > 1:
        raise NotImplementedError(f"several adapters at once: {', '.join(read)}")
    if not read:
        return Adapted(weight, base.bias)
    (name,) = read
    if not is_plain(layer, name):
        raise NotImplementedError(f"an adapter that is more than A and B: {name}")
    return Adapted(weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])


def is_plain(layer: Any, name: str) -> bool:
    """Whether a layer's adapter is s B A and nothing else now: no DoRA, no bias, no dropout."""
    dropout = layer.lora_dropout[name]
    return not (name in layer.lora_variant or layer.lora_bias[name] or (isinstance(dropout, nn.Dropout) and dropout.p))


def folds(layers: Sequence[Adapted], rows: Tensor) -> bool:
    """Whether adapters are folded into their weights for a pass: where that is less work, and does not round.

    W + s B A takes as much arithmetic as the adapter takes on as many rows as a weight has, half at its way in and
    half at its way out. In half precision it would round the weights.
    """
    if rows.dtype not in (torch.float32, torch.float64) or len(rows) < layers[0].weight.shape[1]:
        return False
    return all(layer.a is not None and layer.weight.dtype == rows.dtype for layer in layers)


def folded(layer: Adapted) -> Tensor:
    """Return W + s B A, ``[out, in]``."""
    assert layer.a is not None
    assert layer.b is not None
    assert isinstance(layer.weight, Tensor)
    dtype = layer.weight.dtype
    return torch.addmm(layer.weight, layer.b.to(dtype), layer.a.to(dtype), alpha=layer.scale)


def products(rows: Tensor, layers: Sequence[Adapted], onto: Tensor | None = None) -> tuple[list[Tensor], Tensor | None]:
    """Return what each layer makes of ``[N, in]``, added to `onto` if given.

    Beside it stands x Aᵀ of all, ``[N, Σr]``; None where it was not computed.
    """
    dtype, fold = rows.dtype, folds(layers, rows)
    inner, found, at = None if fold else inwards(rows, layers), [], 0
    for layer in layers:
        bias = None if layer.bias is None else layer.bias.to(dtype)
        weight = folded(layer) if fold else layer.weight.to(dtype)
        result = product(rows, weight, bias if onto is None else onto)
        if onto is not None and bias is not None:
            result += bias
        if layer.a is not None and layer.b is not None and inner is not None:
            torch.addmm(result, inner[:, at : at + len(layer.a)], layer.b.to(dtype).t(), alpha=layer.scale, out=result)
            at += len(layer.a)
        found.append(result)
    return found, inner


def product(rows: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """Return x Wᵀ, ``[N, out]`` of ``[N, in]``, added to `onto` if given."""
    if rows.is_cpu and rows.dtype == torch.float32 and 1 < len(rows) <= FEW_ROWS:
        turned = (weight @ rows.t()).t()
        return turned if onto is None else onto + turned
    return rows @ weight.t() if onto is None else torch.addmm(onto, rows, weight.t())


def inwards(rows: Tensor, layers: Sequence[Adapted]) -> Tensor | None:
    """Return x Aᵀ of all layers, ``[N, Σr]``; None where no adapter is read."""
    matrices = [layer.a for layer in layers if layer.a is not None]
    return rows @ _joined(matrices, rows.dtype).t() if matrices else None


def through(grads: Sequence[Tensor], layers: Sequence[Adapted]) -> Tensor | None:
    """Return the gradient of x Aᵀ of all layers, ``[N, Σr]``; None where no adapter is read."""
    parts = [
        (grad @ layer.b.to(grad.dtype)).mul_(layer.scale)
        for grad, layer in zip(grads, layers, strict=True)
        if layer.b is not None
    ]
    return None if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def of_rows(grads: Sequence[Tensor], layers: Sequence[Adapted], back: Tensor | None) -> Tensor:
    """Return the gradient of ``[N, in]``; `back` is what `through` gives."""
    dtype, fold = grads[0].dtype, folds(layers, grads[0])
    found: Tensor | None = None
    for grad, layer in zip(grads, layers, strict=True):
        weight = folded(layer) if fold else layer.weight.to(dtype)
        found = grad @ weight if found is None else torch.addmm(found, grad, weight, out=found)
    assert found is not None
    if back is not None and not fold:
        torch.addmm(found, back, _joined([x.a for x in layers if x.a is not None], dtype), out=found)
    return found


def of_adapters(
    grads: Sequence[Tensor], layers: Sequence[Adapted], rows: Tensor, inner: Tensor | None, back: Tensor | None
) -> list[Tensor | None]:
    """Return the gradients of each layer's A and B in turn; `back` is what `through` gives, `inner` x Aᵀ if at hand."""
    if back is None:
        return [None, None] * len(layers)
    inner = inwards(rows, layers) if inner is None else inner
    assert inner is not None
    found: list[Tensor | None] = []
    of_a, at = back.t() @ rows, 0
    for grad, layer in zip(grads, layers, strict=True):
        if layer.a is None or layer.b is None:
            found += [None, None]
            continue
        here = slice(at, at + len(layer.a))
        of_b = (grad.t() @ inner[:, here]).mul_(layer.scale)
        found += [of_a[here].to(layer.a.dtype), of_b.to(layer.b.dtype)]
        at = here.stop
    return found


def _joined(matrices: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return (matrices[0] if len(matrices) == 1 else torch.cat(list(matrices))).to(dtype)


class LowRank(torch.autograd.Function):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ, and gradients of x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Adapted, a: Tensor | None, b: Tensor | None) -> Tensor:
        """Return ``[..., out]`` of `x` ``[..., in]``, in the type of `x`; `a` and `b` are the layer's."""
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        (found,), inner = products(rows, [layer])
        ctx.save_for_backward(rows, inner)
        ctx.layer, ctx.shape = layer, x.shape
        return found.view(*x.shape[:-1], layer.weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x`, `a` and `b`; the base learns nothing."""
        (rows, inner), layers = ctx.saved_tensors, [ctx.layer]
        given = [grads[0].reshape(len(rows), ctx.layer.weight.shape[0])]
        back = through(given, layers)
        of_x = of_rows(given, layers, back).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, *of_adapters(given, layers, rows, inner, back)


class FastLinear(Linear):
    """PEFT's LoRA layer, with `LowRank` wherever one plain adapter is read and nothing is merged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``[..., out]`` of `x` ``[..., in]``."""
        names, base = self.active_adapters, self.base_layer
        own = args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or base.weight.requires_grad
        if own or (names[0] in self.lora_A and not is_plain(self, names[0])):
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        layer, kind = adapted(self), x.device.type
        if layer.a is None:
            plain: Tensor = base(x)
            return plain
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            return LowRank.apply(x, layer, layer.a, layer.b)  # type: ignore[no-any-return, no-untyped-call]


def hasten(layers: Iterable[nn.Module]) -> None:
    """Make plain LoRA layers over linear ones fast, quantised ones too; others (convolutions, embeddings) stay."""
    for layer in layers:
        if type(layer) is Linear and type(layer.base_layer) in (nn.Linear, QuantisedLinear):
            layer.__class__ = FastLinear
