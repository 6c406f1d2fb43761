"""Log-probabilities of chosen tokens from hidden states, without keeping [tokens × vocabulary] for the way back.

log p(y|h) of one token is a number, and so its gradient by h is one vector: W[y] − Σ_v p(v) W[v], over the
temperature. It is computed beside the value, chunk by chunk, while the chunk's logits are there. That takes the
arithmetic of an ordinary pass forwards and backwards, no more, and the memory of one chunk. The head must be
frozen, as it is under adapters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 2**25
"""Logits that exist at one time: 128 MiB in float32."""


class ChosenLogps(torch.autograd.Function):
    """log softmax(h Wᵀ / temperature) at chosen tokens, with the gradient of h alone."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> Tensor:
        """Return ``[N]`` of `states` ``[N, H]``, `weight` ``[V, H]`` and `ids` ``[N]``; half types give float32."""
        wants = ctx.needs_input_grad[0]
        slopes = torch.empty_like(states) if wants else None
        found = []
        step = max(1, ELEMENTS_AT_ONCE // len(weight))
        for at in range(0, len(states), step):
            here = slice(at, at + step)
            logits = states[here] @ weight.t()
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            if temperature != 1:
                logits /= temperature
            logps = logits.log_softmax(1)
            found.append(logps.gather(1, ids[here, None]).squeeze(1))
            if slopes is not None:
                torch.sub(weight[ids[here]], logps.exp_().to(weight.dtype) @ weight, out=slopes[here])
        ctx.save_for_backward(slopes)
        ctx.temperature = temperature
        return torch.cat(found) if found else states.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of `states`."""
        (slopes,) = ctx.saved_tensors
        return slopes * (grads[0][:, None] / ctx.temperature).to(slopes.dtype), None, None, None
