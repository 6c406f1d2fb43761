"""Tokenizers in folders that every version of transformers opens, and reads alike.

Transformers 5 names the class of a tokenizer, and lists its special tokens, as 4 does not know; and some classes build
the tokenizer anew by their own rules. The general class, which all versions have, takes what lies there as it is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.files import write_json
from preflab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
LONGEST = 1 << 30


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
