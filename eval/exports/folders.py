"""Classifiers and tokenizers in folders that other programs open, older versions of transformers among them.

Transformers 5 writes what 4 reads otherwise or not at all: the class of a tokenizer, its special tokens as a list, the
base of rotary positions (read as 10,000 where it is not found). What is written here says both.
"""

from __future__ import annotations

import copy
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from preflab.eval.exports.as_read import Opened

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
LONGEST = 1 << 30


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
        ends = Ends.of(opened.tokenizer).ids
        tokenizer = classifier_tokenizer(opened.tokenizer, padding_of(model), ends)
        if tokenizer is None:
            raise UserError(f"{opened.adapter or opened.base}: every token ends some text; there is none to pad with")
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(str(place))
        write_json(place / CONFIG, for_older(read_object(place / CONFIG)))
        template = closed_template(opened.tokenizer)
        write_tokenizer(place, portable(tokenizer, adds=template is None), template)


def portable(tokenizer: PreTrainedTokenizerBase, *, adds: bool) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer of the library's general class, which every version knows.

    Args:
        tokenizer: any with a fast implementation.
        adds: whether it adds special tokens to texts, as the tokenizer does.

    Raises:
        UserError: if it has none.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast implementation, and is not exported")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    if not adds:
        backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    named = {name: str(getattr(tokenizer, name)) for name in NAMED if getattr(tokenizer, name) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, template: Any) -> None:
    """Write a `portable` tokenizer, and the chat template that it is to have."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    named = {name: getattr(tokenizer, name) for name in NAMED if getattr(tokenizer, name) is not None}
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": LONGEST,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": template} if template else {}),
    }
    write_json(folder / "tokenizer_config.json", config)


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
