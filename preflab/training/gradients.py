"""What learns, kept the same on all processes: gradients averaged every optimiser step, weights compared at the end."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from preflab import ranks
from preflab.disk.digests import digest


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of all processes; where none has one, there is none afterwards either.

    What learns are adapters and heads, whole on every process: one sum of some megabytes, after the last micro-batch.
    Hooks that reduce within the backward pass (DDP) would do it twice where two roles learn, one after the other, and
    would wait for ever for a process whose rows were all left out.

    Args:
        parameters: the same on every process; those that do not learn are passed over.
    """
    many = ranks.ranks()
    if many == 1:
        return
    learning = [weight for weight in parameters if weight.requires_grad]
    known = torch.stack([torch.tensor(float(weight.grad is not None)) for weight in learning]).to(learning[0].device)
    flat = torch.cat([known, *(_flat(weight) for weight in learning)])
    torch.distributed.all_reduce(flat)
    at = len(learning)
    for weight, holders in zip(learning, flat[:at].tolist(), strict=True):
        if holders:
            weight.grad = (flat[at : at + weight.numel()] / many).view_as(weight).to(weight.dtype)
        at += weight.numel()


def _flat(weight: nn.Parameter) -> Tensor:
    grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return grad.flatten().float()


def check_alike(parameters: Iterable[nn.Parameter], title: str) -> None:
    """See that what has learnt is the same on all processes, to the bit.

    Raises:
        RuntimeError: if not: a loss, a reward or data that differ from process to process.
    """
    if ranks.ranks() == 1:
        return
    learning = [weight.detach().cpu().contiguous() for weight in parameters if weight.requires_grad]
    found = ranks.gathered(digest(b"".join(weight.view(torch.uint8).numpy().tobytes() for weight in learning), 16))
    if len(set(found)) > 1:
        raise RuntimeError(f"{title}: processes have trained different weights ({', '.join(found)})")
