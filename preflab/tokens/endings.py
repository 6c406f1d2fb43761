"""Which tokens end a response: known here, asked by sampling, encoding, training and evaluation alike.

An instruct model has several: the tokenizer's end token, those that its generation config names, and the one with
which its chat template closes a turn. No torch at import time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.tokens.templates import written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GENERATION, CONFIG = "generation_config.json", "config.json"
PROBE = "preflab probe"


class Ends(NamedTuple):
    """The end tokens of a model.

    Attributes:
        ids: all of them, the tokenizer's own first.
        closing: the one with which the chat template closes an assistant's turn; the tokenizer's own where there is
            no template, or where it writes none that is a single token.
    """

    ids: tuple[int, ...]
    closing: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Ends:
        """Return the end tokens of a tokenizer, and of the model that lies where it was loaded from.

        Raises:
            UserError: if that model's generation config names what is no token.
        """
        assert isinstance(tokenizer.eos_token_id, int), "load_tokenizer sees to the end token"
        told_by = (tokenizer.eos_token_id, tokenizer.name_or_path, str(tokenizer.chat_template))
        if tokenizer not in _KNOWN or _KNOWN[tokenizer][0] != told_by:
            _KNOWN[tokenizer] = (told_by, cls._found(tokenizer))
        return _KNOWN[tokenizer][1]

    @classmethod
    def _found(cls, tokenizer: PreTrainedTokenizerBase) -> Ends:
        closing, rows = _closing(tokenizer), embedding_rows(tokenizer.name_or_path) or len(tokenizer)
        # What has no embedding is never drawn; texts that hold it are refused when they are encoded.
        own = tokenizer.eos_token_id if closing is None or closing >= rows else closing
        found = [tokenizer.eos_token_id, own, *model_ends(tokenizer.name_or_path, rows)]
        return cls(tuple(dict.fromkeys(found)), own)


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[int, str, str], Ends]] = WeakKeyDictionary()


def written_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
    """Return the tokens that a tokenizer finds as whole strings, wherever in a text: those added to its vocabulary.

    They are looked up once, some tokenizers having thousands, and again where others have become special.
    """
    special = tokenizer.all_special_ids
    if tokenizer not in _WRITTEN or _WRITTEN[tokenizer][0] != special:
        added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        found = added | dict(zip(tokenizer.all_special_tokens, special, strict=True))
        _WRITTEN[tokenizer] = (special, MappingProxyType(found))
    return _WRITTEN[tokenizer][1]


_WRITTEN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[list[int], Mapping[str, int]]] = WeakKeyDictionary()


def end_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the end tokens that are found as whole strings wherever they stand in a text."""
    written, ends = written_tokens(tokenizer), Ends.of(tokenizer).ids
    return [text for text in tokenizer.convert_ids_to_tokens(list(ends)) if text in written]


def hide_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make every end token that was added to a vocabulary a special one: it is no part of what a response says.

    Raises:
        UserError: as `Ends.of` does.
    """
    from transformers import AddedToken

    flags = ("single_word", "lstrip", "rstrip", "normalized")
    for end in Ends.of(tokenizer).ids:
        token = tokenizer.added_tokens_decoder.get(end)
        if token is not None and not token.special:
            kept = {name: getattr(token, name) for name in flags}
            tokenizer.add_tokens([AddedToken(str(token), special=True, **kept)])


def rendered_probe(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a user's and an assistant's turn, both saying `PROBE`, as the chat template writes them; else nothing."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": role, "content": PROBE} for role in ("user", "assistant")]
    try:
        return written(tokenizer, turns)
    except UserError:
        raise
    except Exception:  # whoever writes messages by the template says what is wrong with it
        return ""


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that leaves out what is said: all dialogues would be one.

    Raises:
        UserError: naming it.
    """
    text = rendered_probe(tokenizer)
    if text and text.count(PROBE) < 2:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} (or the one in --chat-template) leaves out what messages "
            f"say: it writes a dialogue of two as {text[:80]!r}; give one that writes role and content of each"
        )


def _closing(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that stands behind an assistant's words, if it is one."""
    _, found, tail = rendered_probe(tokenizer).rpartition(PROBE)
    tail = tail.lstrip() if found else ""  # a template may write other words than it is given
    longest_first = sorted(written_tokens(tokenizer).items(), key=lambda item: -len(item[0]))
    return next((number for token, number in longest_first if token and tail.startswith(token)), None)


def model_ends(name: str, size: int) -> list[int]:
    """Return the end tokens that a model's own files name.

    Args:
        name: hub name or folder; nothing is found where no model is.
        size: how many tokens there are.

    Raises:
        UserError: if the generation config names something else than tokens of the model.
    """
    found = []
    for file in (GENERATION, CONFIG):
        content = _read(name, file)
        given = content.get("eos_token_id")
        for end in given if isinstance(given, list) else [] if given is None else [given]:
            if type(end) is int and 0 <= end < size:
                found.append(end)
            elif file == CONFIG or (content.get("_from_model_config") and type(end) is int):
                # Filled in by the library for all models of a kind, whatever their vocabulary.
                _say_no_token(file, name, repr(end), size)
            else:
                raise UserError(
                    f"{file} of model {name!r} names end token {end!r}, which none of its {size} tokens is; mend its "
                    "eos_token_id"
                )
    return found


@cache
def _say_no_token(file: str, name: str, end: str, size: int) -> None:
    logger.warning("%s of %s names end token %s, which none of its %d tokens is", file, name, end, size)


def embedding_rows(name: str) -> int | None:
    """Return how many token ids a model has an embedding for, as its config says; None where it does not."""
    config = _read(name, CONFIG)
    inner = config.get("text_config")
    rows = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    return rows if isinstance(rows, int) else None


def _read(name: str, file: str) -> dict[str, Any]:
    """Return a JSON file of a model, empty where it has none."""
    from transformers.utils import cached_file

    if not name:
        return {}
    if Path(name).is_dir():
        path = Path(name) / file if (Path(name) / file).is_file() else None
    else:
        try:
            path = cached_file(
                name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
            )
        except OSError:  # no such model; who loads it says so
            path = None
    if path is None:
        return {}
    try:
        return read_object(Path(path))
    except UserError as error:
        raise UserError(f"{file} of model {name!r} cannot be read: {error}") from None
