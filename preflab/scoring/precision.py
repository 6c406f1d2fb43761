"""Whether a way of computing log-probabilities is as good as a model's own forward pass, in half precision too.

In float32 two right ways agree to many digits, and a wrong one shows. In half precision a model's own pass is off by
as much as a small mistake would be, and no tolerance tells the two apart. So two questions are asked. Is the way right?
That is tried in float32, with the very same weights. Does it round well? Its error in half precision, against float32,
is held to that of the model's own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import MethodWrapperType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from preflab.method.contract import Batch

HALF = (torch.float16, torch.bfloat16)

TOLERANCE = 1e-3
"""Nats, absolute and relative, by which two right ways may differ in float32."""

ROUNDS = 2.0
"""Error in half precision, as a multiple of the model's own, up to which a way rounds well.

Right ways came within a fifth of each other (`benchmarks.half_precision`); a dozen tokens tell a root of a mean square
to about a third.
"""


class Trial:
    """Holds ways of computing log-probabilities to a model's own forward pass.

    Args:
        model: as it is read now, adapter and autocast included.
        own: gives log-probabilities ``[B, K, T]`` of a batch's responses by the model's own forward pass.
    """

    def __init__(self, model: nn.Module, own: Callable[[Batch], Tensor]) -> None:
        self.model, self.half, self._own = model, in_half(model), own
        self._known: dict[bool, tuple[Batch, Tensor]] = {}

    @torch.no_grad()
    def fault(self, run: Callable[[], tuple[Batch, Tensor]]) -> str | None:
        """Try a way.

        Args:
            run: gives a batch (drawn anew, or one and the same), and log-probabilities of its responses.

        Returns:
            What is wrong with the way, to follow its name; None where it is as good as the model's own.
        """
        with in_float32(self.model) if self.half else nullcontext():
            batch, found = run()
        if not _same(found, self._precise(batch), batch):
            return "is not exact"
        if not self.half:
            return None
        batch, found = run()
        precise = self._precise(batch)
        theirs, ours = (_error(x, precise, batch) for x in (self._of(batch, wide=False), found))
        if ours <= ROUNDS * theirs + TOLERANCE:
            return None
        return f"rounds worse than the model's own pass (by {ours:.2g} nats a token, against {theirs:.2g})"

    def _precise(self, batch: Batch) -> Tensor:
        with in_float32(self.model) if self.half else nullcontext():
            return self._of(batch, wide=True)

    def _of(self, batch: Batch, *, wide: bool) -> Tensor:
        """Return what the model says of a batch, computed once if it is the one asked for last."""
        if wide not in self._known or self._known[wide][0] is not batch:
            self._known[wide] = batch, self._own(batch)
        return self._known[wide][1]


def _same(found: Tensor, expected: Tensor, batch: Batch) -> bool:
    real = batch.response_mask
    return torch.allclose(found[real], expected[real].to(found.dtype), atol=TOLERANCE, rtol=TOLERANCE)


def _error(found: Tensor, precise: Tensor, batch: Batch) -> float:
    """Return the root of the mean square difference, nats a token; NaN where a log-probability is not finite."""
    return float((found - precise)[batch.response_mask].double().pow(2).mean().sqrt())


def in_half(model: nn.Module) -> bool:
    """Whether a model multiplies in half precision as it stands, by its weights or by autocast."""
    kind = next(model.parameters()).device.type
    return torch.is_autocast_enabled(kind) or any(p.dtype in HALF for p in model.parameters())


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Run a model in float32 with the weights that it has; each is widened where it is read, and no copy is kept."""
    with torch.autocast(next(model.parameters()).device.type, enabled=False), _WideWeights():
        yield


class _WideWeights(TorchFunctionMode):
    """Hands every operation float32 in place of a weight of half precision."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operation; shapes and types are asked of the weights themselves."""
        given = (args, kwargs or {})
        if not isinstance(func, MethodWrapperType):  # which asks for an attribute
            given = tree_map_only(nn.Parameter, lambda w: w.float() if w.dtype in HALF else w, given)
        return func(*given[0], **given[1])
