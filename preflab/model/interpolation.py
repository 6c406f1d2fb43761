"""A policy on its way between two others, in weight space: ΔW_λ = (1 − λ) ΔW_start + λ ΔW_end, layer by layer.

Interpolation towards the start gives up reward for KL without training again (arXiv 2406.16768; of log-probabilities at
decoding, arXiv 2402.02992). λ above 1 goes on past the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from preflab.model.role_adapters import RoleAdapters

ROOT = "base_model.model."
"""What PEFT's names of weights begin with."""


class Factors(NamedTuple):
    """One layer's change ΔW = b a, with a's rows as many as b's columns; the adapter's scale is in b."""

    a: Tensor
    b: Tensor
    name_a: str
    name_b: str


def is_product(roles: RoleAdapters, role: str) -> bool:
    """Whether an adapter is nothing but products of two matrices, which can be scaled; DoRA and biases are more."""
    shape = roles.shape(role)
    return not (shape.use_dora or shape.lora_bias)


@torch.no_grad()
def interpolate(roles: RoleAdapters, end: str, start: str | None, share: float) -> None:
    """Put a role's adapter a share of the way from another's to its own; exact, at the rank of both together.

    Args:
        roles: holds both; the role is written over.
        end: the role.
        start: where share 0 lies; None, or a role without an adapter: the base.
        share: 1 leaves the role as it is, 0 makes it the start.

    Raises:
        ValueError: if one of the two is no product of matrices (`is_product`).
    """
    parts = [(end, share), *([(start, 1.0 - share)] if start is not None and roles.has(start) else [])]
    for role, _ in parts:
        if not is_product(roles, role):
            raise ValueError(f"the adapter of {role} is DoRA or has biases, which cannot be scaled with it")
    layers = [(factors(roles, role), weight) for role, weight in parts]
    modules = sorted({module for found, _ in layers for module in found})
    joined = {module: _joined([(found[module], w) for found, w in layers if module in found]) for module in modules}
    rank = max(len(one.a) for one in joined.values())
    state = {}
    for one in joined.values():
        state[one.name_a], state[one.name_b] = _padded(one.a, rank, 0), _padded(one.b, rank, 1)
    # The scale is in the matrices; a pattern of names would match other layers too.
    roles.add(end, LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, task_type="CAUSAL_LM"))
    roles.set_state(end, state)


def factors(roles: RoleAdapters, role: str) -> dict[str, Factors]:
    """Return an adapter's matrices by the names of the base's modules that they change."""
    state, found = roles.state(role), {}
    for name_a, a in state.items():
        if "lora_A" in name_a or "lora_embedding_A" in name_a:
            place, name_b = (
                name_a.partition(".lora_")[0],
                name_a.replace("lora_A", "lora_B").replace("ding_A", "ding_B"),
            )
            layer = roles.peft.get_submodule(place)
            assert isinstance(layer, LoraLayer)
            scaled = state[name_b] * layer.scaling[role]
            found[place.removeprefix(ROOT)] = Factors(a.clone(), scaled, name_a, name_b)
    return found


def _joined(parts: list[tuple[Factors, float]]) -> Factors:
    """Return the weighted sum of changes to one layer, as one change."""
    first = parts[0][0]
    b = torch.cat([one.b * weight for one, weight in parts], dim=1)
    return first._replace(a=torch.cat([one.a for one, _ in parts]), b=b)


def _padded(matrix: Tensor, size: int, dim: int) -> Tensor:
    """Return a matrix with zeros behind, so that all layers are of one rank."""
    missing = list(matrix.shape)
    missing[dim] = size - missing[dim]
    return torch.cat([matrix, matrix.new_zeros(missing)], dim=dim)
