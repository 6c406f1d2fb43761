"""What settings are where nobody says otherwise: layers of YAML, by world and by the size of the model."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from preflab.model.model_size import ModelSize, model_size
from preflab.settings.command_line import split
from preflab.settings.fields import default_of, merge
from preflab.settings.plain_yaml import read_yaml
from preflab.worlds import WorldConfig

logger = logging.getLogger(__name__)

DEFAULTS = Path(__file__).parent / "configs"
EVERY, MODEL, TINY = "every", "model", "tiny"
SIZES = {TINY: 3e6, "0.1b": 135e6, "1b": 1e9, "7b": 7e9}
"""Sizes that there are settings for: the nearest on a log scale is taken. Tiny ones keep the methods' own."""
UNKNOWN = "1b"
LIMITS = ("max_prompt_tokens", "max_response_tokens")


class Layer(NamedTuple):
    """Settings under those of a session: fields of configs, and sections of methods."""

    name: str
    values: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]]


def layers_under(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Layer]:
    """Return the layers under a session's own values, the highest first.

    ``every``; that of what is to be done, by its config's title (``_model`` where the model is the person's own,
    ``_quick``); where it is, ``model`` and ``model_<size>``; the world's, of that size, quick. Each is a file of
    `DEFAULTS`, or left out. Token limits that the
    model's positions cannot hold are lowered.

    Raises:
        UserError: for values of which no world can be made, and a model whose files are damaged.
    """
    fields = {field.name for field in dataclasses.fields(WorldConfig)}
    given = {name: value for name, value in values.items() if name in fields}
    world: WorldConfig = merge({"world": WorldConfig}, given, "config")["world"]
    done, size = list(classes), ModelSize(None, None)
    names = [EVERY, *done, world.kind]
    if world.model is not None:
        size = model_size(world.model)
        label = nearest(size.parameters)
        sized = [] if label == TINY else [MODEL, f"{MODEL}_{label}"]
        done += [f"{title}_{MODEL}" for title in classes] if sized else []
        names = [EVERY, *done, *sized, world.kind, f"{world.kind}_{label}"]
    names += [f"{world.kind}_quick", *(f"{title}_quick" for title in classes)] if world.quick else []
    found = [_layer(name, classes) for name in reversed(names) if (DEFAULTS / f"{name}.yaml").is_file()]
    if world.model is not None:
        _say(world.model, size, tuple(layer.name for layer in reversed(found)))
    return [*_fitting(values, found, size.positions), *found]


def nearest(parameters: int | None) -> str:
    """Return the size whose settings a model of so many weights gets; `UNKNOWN` where nobody knows how many."""
    if not parameters:
        return UNKNOWN
    return min(SIZES, key=lambda size: abs(math.log(SIZES[size] / parameters)))


def _layer(name: str, classes: Mapping[str, type]) -> Layer:
    """Read a layer; of what every world starts from, what is asked for here."""
    path = DEFAULTS / f"{name}.yaml"
    content = read_yaml(path)
    if name == EVERY:
        known = {field.name for cls in classes.values() for field in dataclasses.fields(cls)}
        content = {field: value for field, value in content.items() if field in known}
    return Layer(name, *split(content, classes, str(path)))


def _fitting(values: Mapping[str, Any], layers: list[Layer], positions: int | None) -> list[Layer]:
    """Return a layer of lower token limits, in proportion, where a model lacks the room for those that nobody gave."""
    own = {field.name: default_of(field) for field in dataclasses.fields(WorldConfig)}
    asked = {name: next((layer.values[name] for layer in layers if name in layer.values), own[name]) for name in LIMITS}
    free = [name for name in LIMITS if name not in values]
    room = (positions or 0) - sum(int(values[name]) for name in LIMITS if name in values)
    wanted = sum(asked[name] for name in free)
    if positions is None or wanted <= room or room < len(free):
        return []
    fits = {name: asked[name] * room // wanted for name in free}
    logger.warning("the model has %d positions: %s", positions, ", ".join(f"{k} {v}" for k, v in fits.items()))
    return [Layer("positions of the model", fits, {})]


@cache  # once a process, however many sessions are made
def _say(model: str, size: ModelSize, names: tuple[str, ...]) -> None:
    if size.parameters is None:
        logger.warning("how large %s is cannot be told from here; settings are those of %s", model, UNKNOWN)
    else:
        about = f"{model} has {size.parameters:,} parameters"
        logger.warning("%s; settings start from %s (see --help)", about, ", ".join(names))
