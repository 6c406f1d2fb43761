"""The scalar head of reward and value roles."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
