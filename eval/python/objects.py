"""What is given as an object where settings have names, rows in memory and loaded models, and the files they become."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from preflab.data.in_memory import as_file, is_named
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.eval.python.results import TrainingResult

CAUSAL, CLASSIFIER = "CausalLM", "SequenceClassification"


class Loaded(NamedTuple):
    """A loaded model, and what was given as its tokenizer."""

    model: Any
    tokenizer: Any


class Places(NamedTuple):
    """Where objects are written.

    Attributes:
        rows: the folder of rows, in the run's own.
        cache: where models are kept between runs.
        split: which of several splits is read.
    """

    rows: Path
    cache: Path
    split: str


class Later(NamedTuple):
    """A setting whose value is an object.

    Attributes:
        write: writes it and returns the value that settings have.
        stand_in: a value like it, by which the other settings can be checked before.
    """

    write: Callable[[Places], Any]
    stand_in: Any


def plain(value: Any) -> Any:
    """Return paths, and what was trained, as the text that settings take; anything else as it is."""
    if isinstance(value, TrainingResult):
        return str(value.path)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) in (list, tuple):
        return [plain(one) for one in value]
    return value


def rows(name: str, value: Any) -> Any:
    """Return the name of data, or what writes rows."""
    if is_named(value):
        return value
    texts = name == "prompts" and isinstance(value, list) and all(isinstance(row, str) for row in value)
    asked = [{"prompt": row} for row in value] if texts else value
    return Later(lambda at: str(as_file(asked, name, at.rows, at.split)), __file__)


def model(name: str, value: Any, kind: str = CAUSAL) -> Any:
    """Return the name of a model, or what writes one that is loaded."""
    if is_named(value):
        return value
    return Later(partial(_folder, name, value, kind), str(Path(__file__).parent))


def reward_models(name: str, value: Any) -> Any:
    """Return the names of reward models, or what writes those of them that are loaded."""
    several = value if isinstance(value, list) and not is_pair(value) else [value]
    return _several([model(name, one, CLASSIFIER) for one in several])


def judge(name: str, value: Any) -> Any:
    """Return the name of a judge, or what writes a reward model that is loaded."""
    return model(name, value, CLASSIFIER)


def subjects(name: str, value: Any) -> Any:
    """Return models by name as ``name=PATH`` of each, or what writes those of them that are loaded.

    Raises:
        UserError: for something else.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{name} is {shown(value)}; give a dict of models, each under a name of your own")
    return _several([_subject(str(called), plain(one)) for called, one in value.items()])


def columns(name: str, value: Any) -> Any:
    """Return which column holds what as settings have it, from a dict of our names to the data's too."""
    return [f"{ours}={theirs}" for ours, theirs in value.items()] if isinstance(value, Mapping) else value


OBJECTS: Mapping[str, Callable[[str, Any], Any]] = {
    "model": model,
    "reward_model": reward_models,
    "judge": judge,
    "models": subjects,
    "dataset": rows,
    "heldout": rows,
    "prompts": rows,
    "columns": columns,
}
"""Settings that take an object too, and what reads it; models first, since more can be wrong with them."""


def _subject(called: str, value: Any) -> Any:
    found = model(f"models[{called!r}]", value, kind_of(value) if not is_named(value) else CAUSAL)
    if not re.fullmatch(r"[\w.-]+", called):
        raise UserError(f"models: the name {called!r} must be of letters, digits, . _ and -")
    if not isinstance(found, Later):
        return f"{called}={found}"
    return Later(lambda at: f"{called}={found.write(at)}", f"{called}={found.stand_in}")


def kind_of(value: Any) -> str:
    """Return what a loaded model is to be: a classifier where its class says so."""
    one = loaded(value).model
    return CLASSIFIER if type(one).__name__.endswith("ForSequenceClassification") else CAUSAL


def is_pair(value: Any) -> bool:
    """Whether a value is a model with its tokenizer."""
    if isinstance(value, Loaded):
        return True
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and any(cls.__name__ == "PreTrainedTokenizerBase" for cls in type(value[1]).__mro__)


def loaded(value: Any) -> Loaded:
    """Return a value as a loaded model with its tokenizer, None where it came without."""
    return Loaded(*value) if is_pair(value) else Loaded(value, None)


def _several(found: list[Any]) -> Any:
    if not any(isinstance(one, Later) for one in found):
        return found
    return Later(
        lambda at: [one.write(at) if isinstance(one, Later) else one for one in found],
        [one.stand_in if isinstance(one, Later) else one for one in found],
    )


def _folder(name: str, value: Any, kind: str, at: Places) -> str:
    from preflab.model.loaded import as_folder

    given = loaded(value)
    return str(as_folder(given.model, given.tokenizer, at.cache, kind=kind, name=name))
