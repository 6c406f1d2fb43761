"""How large a model is, and how long its texts may be, from its files or its name. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.model.model_files import CONFIG, INDEX, WEIGHTS, read_model_files

BILLION, MILLION = 10**9, 10**6
NAMED = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)
"""A size in a name: Qwen2.5-0.5B, SmolLM2-135M, Mixtral-8x7B."""


class ModelSize(NamedTuple):
    """What can be known of a model before it is loaded.

    Attributes:
        parameters: how many weights it has, or about; None where nothing says so.
        positions: the most tokens that a text may have; None where its config does not say.
    """

    parameters: int | None
    positions: int | None


def model_size(name: str) -> ModelSize:
    """Read a model's size from its folder, else from the hub's copy on this machine, else from its name.

    A folder's weights are counted by their headers; where there are none, or packed ones of a quantised model, its
    config says how many there must be. Nothing is downloaded.

    Raises:
        UserError: if a folder's files are damaged, or are no model's.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise UserError(f"model {name!r} cannot be loaded: the folder holds no {CONFIG}")
    if not folder.is_dir():
        folder = _cached(name) or folder
    if not (folder / CONFIG).is_file():
        return ModelSize(_named(name), None)
    config = read_object(folder / CONFIG)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    counted = None
    if "quantization_config" not in config and any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
        found = read_model_files(str(folder))
        counted = found.elements if found else None
    positions = text.get("max_position_embeddings", text.get("n_positions"))
    return ModelSize(counted or _configured(text) or _named(name), positions if isinstance(positions, int) else None)


def _cached(name: str) -> Path | None:
    """Return the folder of a hub's model that was downloaded before, whole or in part."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:  # no name that a hub has
        return None
    return Path(found).parent if isinstance(found, str) else None


def _named(name: str) -> int | None:
    """Return the size that a model's name gives, the last one where it gives several."""
    found = NAMED.findall(Path(name).name)
    if not found:
        return None
    experts, number, unit = found[-1]
    return round(int(experts or 1) * float(number) * (BILLION if unit in "bB" else MILLION))


def _configured(config: dict[str, Any]) -> int | None:
    """Return about how many weights a decoder of these sizes has; None where the config does not say.

    Per layer 4 h² of attention (less where keys and values have fewer heads) and the MLP's, three matrices as in
    Llama; embeddings once, or twice where the head has its own.
    """

    def size(*names: str) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

    hidden, layers = size("hidden_size", "n_embd"), size("num_hidden_layers", "n_layer")
    heads = size("num_attention_heads", "n_head")
    if not (hidden and layers and heads):
        return None
    shared = (size("num_key_value_heads") or heads) / heads
    mlp = 3 * hidden * size("intermediate_size") or 8 * hidden**2
    experts = size("num_local_experts", "num_experts") or 1
    embeddings = (1 if config.get("tie_word_embeddings", True) else 2) * size("vocab_size") * hidden
    return round(layers * ((2 + 2 * shared) * hidden**2 + experts * mlp) + embeddings)
