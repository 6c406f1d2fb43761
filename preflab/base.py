"""What the roles are made of: the frozen base model, and the scalar heads of reward and value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from preflab.opening import open_model
from preflab.settings import LoraSettings


class ScalarHead(nn.Module):
    """score(h) = (w·h − mean) / std, in float32; mean and std are those of the reference's samples."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.linear.weight, std=1 / (width + 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, states: Tensor) -> Tensor:
        """Map states ``[..., H]`` to scores ``[...]``."""
        raw = self.linear(states.to(self.linear.weight.dtype)).squeeze(-1)
        scores: Tensor = (raw - self.mean) / self.std
        return scores


def load_base(name: str, settings: LoraSettings, device: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a causal language model, frozen and without dropout; safetensors only.

    Raises:
        UserError: if it cannot be loaded, or a weight is missing, left over, of another shape or not finite.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = settings.dtype if settings.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    model = open_model("CausalLM", name, getattr(torch, chosen), trust_remote_code=trust_remote_code)
    model.requires_grad_(False)
    without_dropout(model)
    return model.to(device)


def without_dropout(model: nn.Module) -> None:
    """Switch every dropout off for good, in ``train()`` mode too: it would break ratios and references."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
