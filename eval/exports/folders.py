"""Classifiers in folders that other programs open, older versions of transformers among them.

Transformers 5 writes what 4 does not find: the base of rotary positions, say, which is then taken for 10,000. What is
written here says both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.files import read_object, remove, write_json
from preflab.errors import UserError
from preflab.scoring.padding import classifier_tokenizer, padding_of
from preflab.tokens.closing import closed_template
from preflab.tokens.endings import CONFIG, Ends
from preflab.tokens.portable import portable, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from preflab.eval.exports.as_read import Opened


def write_classifier(opened: Opened, folder: Path) -> None:
    """Write a reward model as one sequence classifier in float32, an adapter folded in, with its tokenizer.

    Its one logit is the reward before normalisation. The tokenizer pads as the model reads; its chat template, if it
    has one, ends where the model's texts do, at the end token, and nothing is added to what it writes.

    Raises:
        UserError: if it is no reward model, cannot be loaded, or `folder` holds something.
    """
    from preflab.model.classifiers import load_classifier

    with whole_folder(folder) as place:
        model = load_classifier(opened.base, "float32", opened.adapter).model
        tokenizer = padded(opened, padding_of(model))
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(str(place))
        write_json(place / CONFIG, for_older(read_object(place / CONFIG)))
        template = closed_template(opened.tokenizer)
        write_tokenizer(place, portable(tokenizer, adds=template is None), template)


def padded(opened: Opened, pad_id: int | None) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer with the padding that its classifier reads by.

    Args:
        opened: the model.
        pad_id: the padding in its config.

    Raises:
        UserError: if there is no token left to pad with.
    """
    tokenizer = classifier_tokenizer(opened.tokenizer, pad_id, Ends.of(opened.tokenizer).ids)
    if tokenizer is None:
        raise UserError(f"{opened.adapter or opened.base}: every token ends some text; there is none to pad with")
    return tokenizer


def for_older(config: dict[str, Any]) -> dict[str, Any]:
    """Return a model's config with what older versions of the library look for under other names."""
    rope, found = config.get("rope_parameters"), dict(config)
    if isinstance(rope, dict) and "rope_theta" in rope:
        found.update({name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope})
        if rope.get("rope_type", "default") != "default":
            found["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    if "dtype" in config:
        found["torch_dtype"] = config["dtype"]
    return found


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to that becomes `folder` once all is written, and is gone if something fails.

    Raises:
        UserError: if there is something already.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name another folder, or remove it")
    place = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir()
        yield place
        place.replace(folder)
    finally:
        remove(place)
