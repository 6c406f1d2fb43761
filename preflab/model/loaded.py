"""Models that a program has loaded: written as they are, as a folder, and read from there as everybody's are.

So whoever loads them beside this process finds them, keys of stages say what is in them, and the object itself is only
ever read: no adapter is put on it, nothing of it is frozen, moved or hooked.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from preflab.disk.cached import cached_folder
from preflab.disk.digests import digest_of_files, digest_of_parts
from preflab.errors import UserError
from preflab.model.opening import HEADS

logger = logging.getLogger(__name__)

FOLDER = "given"
"""Where they are kept, under the cache."""

ENDINGS = {**HEADS, "SequenceClassification": ("ForSequenceClassification",)}
NOUNS = {"CausalLM": "a causal language model", "SequenceClassification": "a classifier with one label"}
FIRST = "save it (save_pretrained) and give the folder"


def as_folder(model: Any, tokenizer: Any, cache: Path, *, kind: str, name: str) -> Path:
    """Return the folder in which a loaded model and its tokenizer are kept as they are, written unless it is there.

    Args:
        model: a model of transformers, of any type, on any device.
        tokenizer: its tokenizer.
        cache: where folders of models are kept between runs.
        kind: ``CausalLM`` or ``SequenceClassification``.
        name: what it was given as, for messages.

    Raises:
        UserError: for what is no such model, or could not be read from a folder as it is; saying what to do.
    """
    check_loaded(model, tokenizer, kind=kind, name=name)
    shell = _shell(model)
    with TemporaryDirectory(prefix="preflab-") as described:
        _described(shell, tokenizer, Path(described), name)
        files = digest_of_files(*sorted(Path(described).iterdir()))
    digest = digest_of_parts(_weights(model, files), 16)

    def write(folder: Path) -> None:
        _described(shell, tokenizer, folder, name)
        with _answered(name):
            shell.save_pretrained(folder)
        # A large file counts by size and time in `model_fingerprint`: written again, it is to be the same model.
        for path in folder.iterdir():
            os.utime(path, (int(digest[:7], 16),) * 2)

    folder = cached_folder(cache / FOLDER / f"{type(model).__name__}-{digest}", write)
    logger.warning(
        "%s: the loaded %s is read from %s, where it is written as it is", name, type(model).__name__, folder
    )
    return folder


def check_loaded(model: Any, tokenizer: Any, *, kind: str, name: str) -> None:
    """Refuse what is no loaded model of a kind with its tokenizer, or is more than its weights.

    Raises:
        UserError: saying what to do.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    called = type(model).__name__
    if isinstance(model, torch.nn.Module) and _has_adapters(model):
        raise UserError(
            f"{name} is a {called} with PEFT adapters on it; give its base, and the saved adapter by its folder, or "
            "fold it in first: model.merge_and_unload()"
        )
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"{name} is a {called}; it takes the name or folder of {NOUNS[kind]}, or one that is loaded")
    if not type(model).__module__.startswith("transformers."):
        raise UserError(f"{name} is a {called}, a class that transformers does not have; {FIRST}, with its code")
    if not called.endswith(ENDINGS[kind]) or (kind == "SequenceClassification" and model.config.num_labels != 1):
        labels = f" with {model.config.num_labels} labels" if called.endswith(ENDINGS["SequenceClassification"]) else ""
        raise UserError(f"{name} is a {called}{labels}; it takes {NOUNS[kind]}")
    if model.config.to_dict().get("quantization_config"):
        raise UserError(f"{name} is quantised, and would be written so; give its name, with load_in for its bits")
    if any(weight.is_meta for weight in (*model.parameters(), *model.buffers())):
        raise UserError(f"{name} has weights that are not in memory (device meta); {FIRST}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        given = "none is given" if tokenizer is None else f"a {type(tokenizer).__name__} is given"
        raise UserError(f"{name} is a loaded {called}, which needs its tokenizer beside it, and {given}")
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        logger.warning("%s: its forward hooks stay with the object; what is read is its weights alone", name)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a loaded model into evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _has_adapters(model: torch.nn.Module) -> bool:
    return any(cls.__module__.startswith("peft.") for module in model.modules() for cls in type(module).__mro__)


def _shell(model: Any) -> Any:
    """Return a model of the same weights whose config is its own: saving writes the class and the type into it."""
    shell = copy.copy(model)
    shell.config = copy.deepcopy(model.config)
    if model.can_generate():
        shell.generation_config = copy.deepcopy(model.generation_config)
    return shell


def _described(shell: Any, tokenizer: Any, folder: Path, name: str) -> None:
    """Write all but the weights."""
    with _answered(name):
        shell.config.save_pretrained(folder)
        if shell.can_generate():
            shell.generation_config.save_pretrained(folder)
        copy.deepcopy(tokenizer).save_pretrained(folder)


@contextmanager
def _answered(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{name} cannot be written as it is: {error}; {FIRST}") from error


def _weights(model: Any, begin: str) -> Iterator[bytes]:
    yield begin.encode()
    for key, weight in sorted(model.state_dict().items()):
        yield f"{key} {weight.dtype} {tuple(weight.shape)}".encode()
        yield weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
