"""Padding, by which a sequence classifier finds the token that bears its score.

A saved reward model is opened by others as `AutoModelForSequenceClassification`, which reads its score at the last
token that is not ``config.pad_token_id``, or at the very last one where the config has no padding. Where padding is
an end token, as in most instruct models, that is the token *before* the end. Reward models here are trained and read
at the token that such a reader finds, so that what is saved means to others what it means to us.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import chain
from typing import TYPE_CHECKING, Any

from preflab.tokens.endings import written_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from preflab.method.contract import Batch


def padding_of(model: Any) -> int | None:
    """Return the id that a classifier on this model takes for padding, None where its config has none."""
    pad_id: int | None = model.config.get_text_config().pad_token_id
    return pad_id


def as_classifiers_read(batch: Batch, pad_id: int | None) -> Batch:
    """Leave out the padding ids at the end of responses: a classifier does not look at them."""
    if pad_id is None:
        return batch
    said = batch.response_mask & (batch.response_ids != pad_id)
    return batch.replace(response_mask=said.flip(-1).cumsum(-1).flip(-1) > 0)


def classifier_tokenizer(
    tokenizer: PreTrainedTokenizerBase, pad_id: int | None, ends: Collection[int]
) -> PreTrainedTokenizerBase | None:
    """Return a copy of a tokenizer that pads as a classifier reads.

    Args:
        tokenizer: the base's.
        pad_id: what the classifier's config takes for padding; None leaves the choice.
        ends: tokens that texts end in; where there is a choice, padding is none of them.

    Returns:
        The copy; None if every token ends some text.
    """
    if pad_id is None or not 0 <= pad_id < len(tokenizer) or _is_word(tokenizer, pad_id):
        special = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
        # The last tokens of a vocabulary are rare ones.
        every = list(reversed(range(len(tokenizer))))
        rest = chain((token for token in every if not _is_word(tokenizer, token)), every)
        pad_id = next((token for token in chain(special, rest) if token is not None and token not in ends), None)
    if pad_id is None:
        return None
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.convert_ids_to_tokens(pad_id)
    return padded


def _is_word(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether a token is written as texts write it: as padding it would be looked for in them as a whole string."""
    text = tokenizer.convert_ids_to_tokens(token)
    return text not in written_tokens(tokenizer) and tokenizer.decode([token]) == text
