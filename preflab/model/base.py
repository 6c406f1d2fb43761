"""What the roles are made of: the frozen base model, and the scalar heads of reward and value."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from preflab.model.devices import default_device
from preflab.model.opening import open_model
from preflab.scoring.quantised import quantised_layers
from preflab.settings.training import LoraSettings


def loaded_dtype(chosen: str, device: str) -> torch.dtype:
    """Return the type a model is loaded in; ``auto`` is bfloat16 on an accelerator, else float32."""
    if chosen == "auto":
        chosen = "float32" if device == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, chosen)
    return dtype


def load_base(name: str, settings: LoraSettings, device: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a causal language model, frozen and without dropout; safetensors only.

    Raises:
        UserError: if it cannot be loaded, or a weight is missing, left over, of another shape or not finite.
    """
    device = device or default_device()
    dtype = loaded_dtype(settings.dtype, device)
    model = open_model(
        "CausalLM",
        name,
        dtype,
        trust_remote_code=trust_remote_code,
        load_in=settings.load_in,
        attention=settings.attention,
        device=device,
    )
    model.requires_grad_(False)
    without_dropout(model)
    # What is quantised lies where it is to be, and bears no other type.
    return model if any(quantised_layers(model)) else model.to(device)


def without_dropout(model: nn.Module) -> None:
    """Switch every dropout off for good, in ``train()`` mode too: it would break ratios and references."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
