"""The shape of an adapter, as PEFT's config has it: what settings ask for, or what a folder says of its weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig

from preflab.settings.training import LoraSettings

SHAPE = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
)
"""Fields that decide which matrices an adapter has and what is computed with them."""

HEAD = "lm_head"


def asked_for(settings: LoraSettings) -> LoraConfig:
    """Return the shape that settings ask for."""
    targets = list(settings.target_modules)
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


def said_by(config: Mapping[str, Any], settings: LoraSettings) -> LoraConfig:
    """Return the shape that a folder's config, as `read_config` returns it, says; dropout is that of the settings."""
    shape = {name: config[name] for name in SHAPE if config.get(name) is not None}
    return LoraConfig(**shape, lora_dropout=settings.lora_dropout, task_type="CAUSAL_LM")


def without_head(shape: LoraConfig) -> LoraConfig:
    """Return the shape less the output head, which is no part of a scalar role, and of no classifier it is saved as."""
    shape, targets = copy.deepcopy(shape), shape.target_modules
    if not isinstance(targets, str):
        shape.target_modules = {name for name in targets or () if name != HEAD}
    elif re.fullmatch(targets, HEAD):
        excluded = shape.exclude_modules or []
        shape.exclude_modules = f"(?:{excluded})|{HEAD}" if isinstance(excluded, str) else {*excluded, HEAD}
    return shape


def same(one: LoraConfig, other: LoraConfig) -> bool:
    """Whether two shapes are one, however they are written."""
    return _fields(one) == _fields(other)


def alike(one: LoraConfig, other: LoraConfig) -> bool:
    """Whether two shapes agree in rank, scale and kind, on whatever layers."""
    return all(getattr(one, name) == getattr(other, name) for name in ("r", "lora_alpha", "use_rslora", "use_dora"))


def described(shape: LoraConfig) -> str:
    """Return a shape in a few words."""
    kinds = [name for name, on in (("rsLoRA", shape.use_rslora), ("DoRA", shape.use_dora)) if on]
    return " ".join([f"rank {shape.r}, alpha {shape.lora_alpha}", *(f"({kind})" for kind in kinds)])


def _fields(shape: LoraConfig) -> dict[str, Any]:
    fields = {name: getattr(shape, name) or None for name in SHAPE}
    return {name: set(value) if isinstance(value, (list, tuple)) else value for name, value in fields.items()}
