"""What an adapter folder says of itself, read as data: nothing that stands in it is imported. No torch here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.model.hub_names import called_alike

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, NORMALISATION = "adapter_config.json", "adapter_model.safetensors", "normalisation.json"

OF_TRAINING = frozenset(
    (
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
        "qalora_group_size",
        "ensure_weight_tying",
    )
)
"""Fields that say nothing of finished weights; ``megatron_core`` names a module, which nobody here imports."""

OTHER_MATHS = frozenset(
    (
        "megatron_config",
        "layer_replication",
        "alora_invocation_tokens",
        "use_qalora",
        "target_parameters",
        "trainable_token_indices",
        "arrow_config",
        "velora_config",
        "monteclora_config",
        "kasa_config",
        "use_bdlora",
    )
)
"""Fields that say of an adapter that it is more than plain LoRA."""

STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Starts of the matrices that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ …) change it too."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the fields of a LoRA adapter's config that say how it is put on, checked.

    Raises:
        UserError: if there is none, it is no LoRA, a field is of a wrong type, or it asks for other mathematics.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no {CONFIG}; it is no PEFT adapter")
    given, where = read_object(folder / CONFIG), f"adapter {folder}"
    if given.get("peft_type") != "LORA":
        raise UserError(f"{where} is of type {given.get('peft_type')!r:.40}; only LoRA is read")
    asked = sorted(name for name in OTHER_MATHS if given.get(name))
    if asked:
        raise UserError(f"{where} uses {', '.join(asked)}; only plain LoRA is read")
    if given.get("init_lora_weights") not in STARTS:
        start = given["init_lora_weights"]
        raise UserError(f"{where} starts from a changed base (init_lora_weights {start!r:.40}); save it as plain LoRA")
    unknown = sorted(name for name in given.keys() - READ - OF_TRAINING - OTHER_MATHS if given[name])
    if unknown:
        logger.warning("%s: not read in its %s: %s", where, CONFIG, ", ".join(unknown[:5]))
    _check_types(where, given)
    return {name: given[name] for name in READ & given.keys()}


def read_normalisation(folder: Path) -> dict[str, float]:
    """Return mean and deviation of a reward model's scores; nothing where none lies beside it.

    Raises:
        UserError: if the file says something else.
    """
    path = folder / NORMALISATION
    if not path.is_file():
        return {}
    given = read_object(path)
    other = sorted(given.keys() - {"mean", "std"})
    if other:
        raise UserError(f"{path} holds {other[0]!r:.40} beside mean and std, and nothing here knows what it means")
    for name in ("mean", "std"):
        value = given.get(name)
        if not _is_number(value):
            raise UserError(f"{path}: {name} is {value!r:.40}; it must be a finite number")
    if not given["std"] > 0:
        raise UserError(f"{path}: std is {given['std']!r:.40}; it must be above 0")
    return {name: float(given[name]) for name in ("mean", "std")}


@cache
def say_other_base(folder: Path, made_for: str | None, base: str) -> None:
    """Say so, once, where an adapter was made for a model of another name."""
    if made_for and not called_alike(made_for, base):
        logger.warning("adapter %s says that it was made for %s; it is put on %s", folder.resolve(), made_for, base)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value > 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_name_or_names(value: Any) -> bool:
    return isinstance(value, str) or _is_names(value)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(number) and number > 0 for number in value.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_layers(value: Any) -> bool:
    return all(isinstance(layer, int) for layer in (value if isinstance(value, list) else [value]))


TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_number, "a finite number"),
    "target_modules": (_is_name_or_names, "a list of names"),
    "exclude_modules": (_is_name_or_names, "a list of names"),
    "layers_pattern": (_is_name_or_names, "a list of names"),
    "layers_to_transform": (_is_layers, "a list of numbers"),
    "modules_to_save": (_is_names, "a list of names"),
    "base_model_name_or_path": (_is_text, "text"),
    "task_type": (lambda value: value in TASKS, "one of PEFT's tasks, such as CAUSAL_LM"),
    "rank_pattern": (_is_pattern, "numbers above 0 by name"),
    "alpha_pattern": (_is_pattern, "numbers above 0 by name"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"), (_is_flag, "true or false")),
}
"""Fields that say how an adapter's weights are put on, and what they must be where they are set."""

NEEDED = ("r", "lora_alpha")
READ = {"peft_type", "init_lora_weights", *TYPES}


def _check_types(where: str, given: Mapping[str, Any]) -> None:
    for name, (right, kind) in TYPES.items():
        value = given.get(name)
        if (value is not None or name in NEEDED) and not right(value):
            raise UserError(f"{where}: {name} in its {CONFIG} is {value!r:.60}; it must be {kind}")
