"""Pairs as one model reads them, for programs that are given text: what they make of it must be the model's tokens.

preflab's models read prompt and response as token ids that end in an end token; other programs read a text. The text
here is the very one, the template's tokens, the row's system prompt and the end token included, and who exports it
holds it against the ids (`same_tokens`): where another program would read something else, the pair is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.encoding import EncodedGroup, Encoder, load_tokenizer
from preflab.data.findings import BadRows
from preflab.data.formats import clean_rows
from preflab.data.reading import RowError, iter_rows
from preflab.data.splits import Rows, each_row
from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.eval.exports.pairs import SINGLE, UNDECIDED, usable
from preflab.model.adapter_config import CONFIG
from preflab.tokens.endings import end_strings
from preflab.tokens.literals import raw_rows
from preflab.tokens.templates import has_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

UNLIMITED = 1 << 30
EQUAL = "chosen and rejected are the same tokens to the model"


class Opened(NamedTuple):
    """What a model's name or folder stands for.

    Attributes:
        base: name or folder of the model whose tokenizer it reads with; of an adapter, its base.
        adapter: its folder, if it is one.
        tokenizer: the base's, with the chat template that lies beside the adapter, if one does.
    """

    base: str
    adapter: Path | None
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, model: str) -> Opened:
        """Open a base, an adapter's folder or a classifier's.

        Raises:
            UserError: if there is no tokenizer, or an adapter does not say what it is on.
        """
        folder = Path(model).expanduser()
        if not (folder / CONFIG).is_file():
            return cls(model, None, load_tokenizer(model))
        base = read_object(folder / CONFIG).get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise UserError(f"{folder / CONFIG} does not say which model the adapter is on (base_model_name_or_path)")
        tokenizer = load_tokenizer(base)
        if has_template(folder):
            tokenizer.chat_template = load_tokenizer(str(folder)).chat_template
        return cls(base, folder, tokenizer)

    @property
    def pad_id(self) -> int | None:
        """The padding that a classifier on the base reads by; None where the base's config names none."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.base)
        found: int | None = config.get_text_config().pad_token_id
        return found


class ReadPair(NamedTuple):
    """A pair as a model reads it.

    Attributes:
        row: its place among the pairs, from 0.
        prompt: the text before a response.
        responses: the chosen one and the rejected one, each up to its end token.
        prompt_ids: what the model reads of the prompt.
        response_ids: of both responses, end tokens included.
        subset: what its row says it is of; None where that is nothing.
    """

    row: int
    prompt: str
    responses: tuple[str, str]
    prompt_ids: list[int]
    response_ids: list[list[int]]
    subset: str | None = None

    @property
    def texts(self) -> list[str]:
        """Prompt and response in one, chosen first."""
        return [self.prompt + response for response in self.responses]

    @property
    def ids(self) -> list[list[int]]:
        """The tokens of both `texts`."""
        return [self.prompt_ids + response for response in self.response_ids]


def read_pairs(rows: Rows, encoder: Encoder, source: str = "the data") -> list[ReadPair]:
    """Return clean rows, such as a world's ``heldout``, as a model's `encoder` reads them.

    Rows that are no pair, or neither of whose responses is preferred, are left out, counted and said.

    Raises:
        UserError: if none is left.
    """
    bad, pairs = BadRows(), dict[int, Mapping[str, Any]]()
    for at, row in enumerate(each_row(rows)):
        if row.get("chosen") is None:
            bad.add(at + 1, RowError(SINGLE))
        elif row.get("preference") == 0.5:
            bad.add(at + 1, RowError(UNDECIDED))
        else:
            pairs[at] = row
    numbers, kept = list(pairs), list(pairs.values())
    groups = encoder.encode_pairs(kept, equals=True)[0] if kept else []
    found = []
    for group in groups:
        if group.response_ids[0] == group.response_ids[1]:
            bad.add(numbers[group.row] + 1, RowError(EQUAL))
        else:
            found.append(_read(numbers[group.row], kept[group.row], group, encoder))
    return usable(found, bad, source)


def open_pairs(source: str, opened: Opened) -> tuple[list[ReadPair], Encoder]:
    """Read a file of pairs, of any layout, as a model reads it; whole, however long rows are.

    Raises:
        UserError: if it cannot be read, or no pair is left.
    """
    found = clean_rows(iter_rows(source), opened.tokenizer, source=source)
    if found.bad.total:
        logger.warning("%s: %d bad rows left out: %s", source, found.bad.total, found.bad.summary())
    if found.seen.messages and found.seen.texts and opened.tokenizer.chat_template:
        raise UserError(
            f"{source}: some rows are messages, others text that a template wrote ({found.seen.messages} and "
            f"{found.seen.texts}), and one reading cannot serve both; export them apart"
        )
    chat = bool(opened.tokenizer.chat_template and found.seen.messages)
    rows = found.rows if found.seen.messages else raw_rows(found.rows, opened.tokenizer, "auto", source)
    encoder = Encoder(opened.tokenizer, UNLIMITED, UNLIMITED, chat)
    pairs = read_pairs(rows, encoder, source)
    encoder.report(source)
    return pairs, encoder


def same_tokens(
    pairs: Sequence[ReadPair], reads: Callable[[ReadPair], bool], program: str, source: str = "the data"
) -> list[ReadPair]:
    """Return the pairs of which another program reads the model's own tokens; the others are counted and said.

    Args:
        pairs: as the model reads them.
        reads: whether the program reads both texts of a pair so.
        program: what it is called.
        source: what to call the data.

    Raises:
        UserError: if that is none.
    """
    same = [pair for pair in pairs if reads(pair)]
    if not same:
        raise UserError(
            f"{source}: {program} would read other tokens than the model in all {len(pairs)} pairs, the first of which "
            f"is {pairs[0].texts[0][:80]!r}; nothing is exported"
        )
    if len(same) < len(pairs):
        logger.warning(
            "%s: %d of %d pairs are left out: %s would read other tokens than the model does (special-token strings "
            "that somebody wrote, or responses that grow together with the prompt)",
            source,
            len(pairs) - len(same),
            len(pairs),
            program,
        )
    return same


def _read(number: int, row: Mapping[str, Any], group: EncodedGroup, encoder: Encoder) -> ReadPair:
    written = encoder.literals.written
    chosen, rejected = (written(_closed(row[name], encoder)) for name in ("chosen", "rejected"))
    return ReadPair(
        number,
        written(row["prompt"]),
        (chosen, rejected),
        group.prompt_ids,
        group.response_ids,
        row.get("subset"),
    )


def _closed(response: str, encoder: Encoder) -> str:
    """Return a response up to its first end token, with the one that it gets where it has none."""
    found = ((response.find(end), len(end)) for end in end_strings(encoder.tokenizer))
    at, length = min(((at, length) for at, length in found if at >= 0), default=(len(response), 0))
    return response[: at + length] if length else response + str(encoder.tokenizer.convert_ids_to_tokens(encoder.eos))
