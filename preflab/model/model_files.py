"""What a local model's files say, read before a library makes something of them. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from preflab.disk.files import read_object
from preflab.errors import UserError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
FLOATS = ("F64", "F32", "F16", "BF16")
ROOM = 2**26
"""So many weights may a model have that its files do not hold, before any is counted by name."""


class ModelFiles(NamedTuple):
    """A model folder's own account of itself.

    Attributes:
        config: what stands in ``config.json``.
        tensors: how many the weight files hold.
        elements: how many numbers they hold in all.
    """

    config: dict[str, Any]
    tensors: int
    elements: int


def read_model_files(name: str) -> ModelFiles | None:
    """Read config and headers of a local model; None where `name` is no local folder, but a hub's name.

    Raises:
        UserError: if it is an adapter, a run or no model, or a file of it is missing, cut or unreadable; by name.
    """
    folder = Path(name).expanduser()
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        raise UserError(f"model {name!r} is no folder; a model is a folder with {CONFIG} and {WEIGHTS}, or a hub name")
    _refuse_adapters(name, folder)
    if not (folder / CONFIG).is_file():
        kind = "a preflab run, of which a stage can be evaluated" if (folder / "stages").is_dir() else "no model"
        raise UserError(f"model {name!r} cannot be loaded: it has no {CONFIG}; it is {kind}")
    config = read_object(folder / CONFIG)
    tensors = [tensor for file in _weight_files(name, folder) for tensor in _tensors(name, file)]
    whole = sorted(key for key, kind, _ in tensors if kind not in FLOATS and key.endswith(".weight"))
    if whole and "quantization_config" not in config:
        raise UserError(
            f"model {name!r} cannot be loaded: {whole[0]} holds small numbers of a quantised model, and its "
            f"{CONFIG} has no quantization_config that says what they stand for"
        )
    return ModelFiles(config, len(tensors), sum(prod(shape) for *_, shape in tensors))


def check_sizes(name: str, found: ModelFiles, config: Any) -> None:
    """Refuse a config that asks for more layers than there are tensors: making them would take for ever.

    Raises:
        UserError: with the field and its value.
    """
    for field, value in config.get_text_config().to_dict().items():
        if isinstance(value, int) and ("layer" in field or "expert" in field) and value > max(found.tensors, 1024):
            raise UserError(
                f"model {name!r} cannot be loaded: its config.json has {field} {value}, its files "
                f"{found.tensors} tensors"
            )


def check_count(name: str, found: ModelFiles, asked: int) -> None:
    """Refuse a config whose sizes are far from those of the weights, before memory is taken for them.

    Raises:
        UserError: with both counts.
    """
    if asked > max(8 * found.elements, ROOM) and "quantization_config" not in found.config:
        raise UserError(
            f"model {name!r} cannot be loaded: its config.json asks for {asked} weights, and its files hold "
            f"{found.elements}; the config is of another model, or damaged"
        )


def _refuse_adapters(name: str, folder: Path) -> None:
    if not (folder / ADAPTER).is_file():
        return
    if (folder / CONFIG).is_file():
        raise UserError(
            f"model {name!r} holds an adapter beside a model ({ADAPTER} and {CONFIG}), and the library would put it "
            "on without a word; move one of them to a folder of its own"
        )
    base = read_object(folder / ADAPTER).get("base_model_name_or_path")
    given = base if isinstance(base, str) and base.strip() else "BASE"
    raise UserError(
        f"model {name!r} is a PEFT adapter, not a model: give its base as --model {given}, and the adapter as --sft or "
        f"in --models of recipes/evaluate.py"
    )


def _weight_files(name: str, folder: Path) -> list[Path]:
    """Return the safetensors files that the library reads.

    Raises:
        UserError: if there are none, or the index names others than those of this folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
        there = f"; {pickles[0]} can run code and is not read: save the model as safetensors" if pickles else ""
        raise UserError(f"model {name!r} cannot be loaded: it has no {WEIGHTS} and no {INDEX}{there}")
    shards = read_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise UserError(f"model {name!r} cannot be loaded: {INDEX} has no weight_map of names to files")
    files = sorted(set(shards.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"model {name!r} cannot be loaded: {INDEX} names {file!r}, which is no file beside it")
        if not (folder / file).is_file():
            raise UserError(f"model {name!r} cannot be loaded: {INDEX} names {file}, which is missing")
    return [folder / file for file in files]


def _tensors(name: str, file: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the names, types and shapes that a safetensors file's header names.

    Raises:
        UserError: if the file is cut, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            for key in opened.keys():  # noqa: SIM118
                found = opened.get_slice(key)
                yield key, found.get_dtype(), found.get_shape()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"model {name!r} cannot be loaded: {file.name} is no whole safetensors file: {error}") from None
