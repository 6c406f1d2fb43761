"""Adapters as named weights, and as folders in PEFT's own format; safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preflab.errors import UserError
from preflab.settings import LoraSettings

WEIGHTS, NORMALISATION = "adapter_model.safetensors", "normalisation.json"
HEAD_KEY = "base_model.model.score.weight"  # PEFT's name of the head of a classifier with one label


def get_adapter(model: Any, name: str) -> dict[str, Tensor]:
    """Return one adapter's weights, not copied, under the names they have in a PEFT folder."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return state


def set_adapter(model: Any, name: str, state: Mapping[str, Tensor]) -> None:
    """Copy weights, named as by `get_adapter`, into one adapter.

    Raises:
        ValueError: if names or shapes are not exactly the adapter's.
    """
    check_fit(state, get_adapter(model, name))
    set_peft_model_state_dict(model, dict(state), adapter_name=name)


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `ValueError`, naming the first misfit, unless names and shapes are the same."""
    shapes, wanted = ({(name, tensor.shape) for name, tensor in found.items()} for found in (state, expected))
    if shapes != wanted:
        raise ValueError(f"first at {min(name for name, _ in shapes ^ wanted)}")


def write_folder(
    folder: Path, config: LoraConfig, state: Mapping[str, Tensor], normalisation: Mapping[str, float]
) -> None:
    """Write an adapter as PEFT does; ``normalisation.json`` lies beside it where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    if normalisation:
        (folder / NORMALISATION).write_text(json.dumps(normalisation))
    config.save_pretrained(str(folder))
    save_file({k: v.detach().contiguous().cpu() for k, v in state.items()}, folder / WEIGHTS)


def read_folder(folder: Path, settings: LoraSettings) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return weights and normalisation (empty where there is none) that PEFT or `write_folder` wrote.

    Raises:
        UserError: if there are no safetensors weights, or the adapter is not of the shape in the settings.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS} (only safetensors are read)")
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no adapter_config.json; it is no PEFT adapter")
    saved: Any = LoraConfig.from_pretrained(str(folder))
    if saved.use_rslora or saved.use_dora or saved.rank_pattern or saved.alpha_pattern:
        raise UserError(f"adapter {folder} uses rsLoRA, DoRA or rank patterns; only plain LoRA is read")
    if (saved.r, saved.lora_alpha) != (settings.lora_rank, settings.lora_alpha):
        raise UserError(
            f"adapter {folder} has rank {saved.r} and alpha {saved.lora_alpha}, the settings say "
            f"{settings.lora_rank} and {settings.lora_alpha}; set lora_rank and lora_alpha to those of the adapter"
        )
    beside = folder / NORMALISATION
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    return weights, json.loads(beside.read_text()) if beside.is_file() else {}
