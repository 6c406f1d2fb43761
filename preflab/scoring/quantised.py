"""Linear layers whose frozen weights are kept in 8 or 4 bits, and are numbers only while they are multiplied with.

bitsandbytes quantises and restores them (LLM.int8(), arXiv 2208.07339; NF4 with quantised constants, arXiv 2305.14314).
Its own layers compute one thing in training and another in evaluation: eight bits then round what comes in as well, and
on a CPU four bits go through another kernel. Here the weight is the same numbers whoever reads it: the layer itself,
the fused path or the decode loop. It is restored for a product and forgotten, on the way back too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from preflab.settings.training import LoadIn


class Packed:
    """A weight in bits.

    Args:
        weight: what is stored.
        shape: of the numbers, ``[out, in]``.
        restore: gives them.

    Attributes:
        dtype: of what is stored; nothing is multiplied in it.
    """

    def __init__(self, weight: Any, shape: torch.Size, restore: Callable[[Any], Tensor]) -> None:
        self._weight, self.shape, self._restore = weight, shape, restore
        self.dtype: torch.dtype = weight.dtype

    def to(self, dtype: torch.dtype) -> Tensor:
        """Return the numbers, ``[out, in]``, in a tensor of their own."""
        return self._restore(self._weight).to(dtype)


class QuantisedLinear(nn.Linear):
    """x Wᵀ + b with W in bits; made by `take_over` of what bitsandbytes has quantised."""

    restore: Callable[[Any], Tensor]

    @property
    def weight_count(self) -> int:
        """How many numbers the weight has; there are fewer bytes."""
        return self.out_features * self.in_features

    @property
    def packed(self) -> Packed:
        """The weight."""
        return Packed(self.weight, torch.Size((self.out_features, self.in_features)), self.restore)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out]`` of `x` ``[..., in]``."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            return _Product.apply(x, self.packed, self.bias)  # type: ignore[no-any-return, no-untyped-call]


class _Product(torch.autograd.Function):
    """x Wᵀ + b, and the gradient of x; what is restored is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] @ ctx.weight.to(grads[0].dtype), None, None


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, QuantisedLinear]]:
    """Yield the layers of a model that are kept in bits, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantisedLinear))


def take_over(model: Any) -> None:
    """Make the layers that bitsandbytes has quantised `QuantisedLinear`; none has been called yet.

    The model no longer says that it is loaded in bits, which is what PEFT chooses layers by, and TRL rounds adapters
    to bfloat16 by.
    """
    for module in model.modules():
        if type(module).__module__.startswith("bitsandbytes."):
            restore = RESTORE[type(module).__name__]
            module.__class__ = QuantisedLinear
            module.restore = restore
            model.is_loaded_in_4bit = model.is_loaded_in_8bit = False


def _from_4_bits(weight: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return found


def _from_8_bits(weight: Any) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    found: Tensor = int8_vectorwise_dequant(weight.data, weight.SCB)
    return found


RESTORE = {"Linear4bit": _from_4_bits, "Linear8bitLt": _from_8_bits}


def quantisation(load_in: LoadIn, dtype: torch.dtype) -> Any:
    """Return how transformers is to quantise what it loads, or None."""
    if load_in == "none":
        return None
    from transformers import BitsAndBytesConfig

    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


@torch.no_grad()
def restore_all(model: Any) -> None:
    """Make every layer in bits a plain one of the same numbers."""
    for _, layer in list(quantised_layers(model)):
        layer.weight = nn.Parameter(layer.packed.to(model.dtype), requires_grad=False)
        layer.__class__ = nn.Linear  # type: ignore[assignment]
