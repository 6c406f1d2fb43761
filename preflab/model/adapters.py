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
from preflab.model.adapter_config import CONFIG, NORMALISATION, WEIGHTS, read_config, read_normalisation

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
    for name in sorted(state.keys() | expected.keys()):
        if name not in state:
            raise ValueError(f"{name} is missing")
        if name not in expected:
            raise ValueError(f"{name} has no place in it")
        found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
        if found != wanted:
            raise ValueError(f"{name} has shape {found} in place of {wanted}")


def write_folder(
    folder: Path, config: LoraConfig, state: Mapping[str, Tensor], normalisation: Mapping[str, float]
) -> None:
    """Write an adapter as PEFT does; ``normalisation.json`` lies beside it where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    if normalisation:
        (folder / NORMALISATION).write_text(json.dumps(dict(normalisation)))
    config.save_pretrained(str(folder))
    save_file({k: v.detach().contiguous().cpu() for k, v in state.items()}, folder / WEIGHTS)


HEADS = {"score", "classifier"}  # what PEFT lists of a classifier among the modules that are saved whole
NAMED = 4  # of the modules that a message lists


class OtherAdapterError(UserError):
    """An adapter that is whole, but not one that a role on this base can take."""


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, float]]:
    """Return weights, config and normalisation (empty where there is none) that PEFT or `write_folder` wrote.

    Raises:
        OtherAdapterError: if it is more than LoRA: it changes the base's own biases, or brings modules of its own.
        UserError: if a file is missing, damaged or something else.
    """
    folder = folder.resolve()
    weights, config = read_plain_lora(folder)
    more = sorted({*(config.get("modules_to_save") or ())} - HEADS)
    if more or config.get("bias", "none") != "none":
        what = f"modules of its own ({', '.join(more)})" if more else "biases of the base"
        raise OtherAdapterError(f"adapter {folder} is more than LoRA: it holds {what}")
    return weights, config, read_normalisation(folder)


def read_plain_lora(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an adapter's weights, and what its config says of them.

    Raises:
        UserError: as `read_weights` and `read_config` do, or if the two are not of one adapter.
    """
    folder = folder.resolve()  # stages keep adapters from elsewhere as links, and messages name the place itself
    weights, config = read_weights(folder), read_config(folder)
    ranks = {len(weight) for name, weight in weights.items() if ".lora_A" in name or ".lora_embedding_A" in name}
    said = {config["r"], *(config.get("rank_pattern") or {}).values()}
    if not ranks <= said:
        raise UserError(
            f"adapter {folder} has rank {config['r']} in its {CONFIG} and {min(ranks - said)} in its weights; "
            "they are not of one adapter"
        )
    _check_targets(folder, {name.partition(".lora_")[0] for name in weights if ".lora_" in name}, config)
    return weights, config


def _check_targets(folder: Path, modules: set[str], config: Mapping[str, Any]) -> None:
    """Refuse weights of other modules than the config names: whoever goes by it would read another adapter."""
    named = config.get("target_modules")
    if not isinstance(named, list) or not named:  # a pattern, or all that are linear
        return
    untold = sorted(path for path in modules if not any(path == n or path.endswith(f".{n}") for n in named))
    unfound = sorted(n for n in named if not any(path == n or path.endswith(f".{n}") for path in modules))
    if untold or unfound:
        wrong = f"weights for {untold[0]}, which it does not name" if untold else f"no weights for {unfound[0]}"
        listed = ", ".join(sorted(named)[:NAMED]) + ", …" * (len(named) > NAMED)
        raise UserError(
            f"adapter {folder} has target_modules {listed} in its {CONFIG} and {wrong}; they are not of one adapter"
        )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return an adapter's weights.

    Raises:
        UserError: if there are no safetensors weights, they cannot be read, or one is not finite.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS} (only safetensors are read)")
    try:
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    wrong = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if wrong:
        raise UserError(f"{folder / WEIGHTS} holds NaN or infinity, first in {min(wrong)}")
    return weights
