"""Roles that learn at a rate of their own: their groups in the optimiser, and a norm of their own in the clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from preflab.method.contract import Role
from preflab.settings.policy_gradient import ActorCriticConfig

Parameters = Sequence[nn.Parameter]


def own_rates(config: Any) -> dict[Role, float]:
    """Return the peak learning rates of roles that learn at another one than the rest."""
    rate = config.value_learning_rate if isinstance(config, ActorCriticConfig) else None
    return {} if rate is None else {"value": rate}


def grouped(optimiser: Any, rates: Mapping[Role, float], parameters_of: Callable[[Role], Parameters]) -> Any:
    """Move each role's parameters to groups of its own rate, otherwise like those that they were in."""
    for role, rate in rates.items():
        own = {id(p) for p in parameters_of(role)}
        for group in list(optimiser.param_groups):
            moved = [p for p in group["params"] if id(p) in own]
            group["params"] = [p for p in group["params"] if id(p) not in own]
            if moved:
                optimiser.add_param_group({**group, "params": moved, "lr": rate})
    return optimiser


def clipped_apart(clip: Callable[[Parameters], Tensor], learning: Parameters, apart: Sequence[Parameters]) -> Tensor:
    """Clip the gradients of some parameters, each lot by itself, and of all others together.

    Returns:
        the norm of all gradients before.
    """
    known = {id(p) for parameters in apart for p in parameters}
    rest = [p for p in learning if id(p) not in known]
    return torch.stack([clip(parameters) for parameters in (rest, *apart)]).norm()
